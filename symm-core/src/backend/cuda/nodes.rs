//! What a graph holds, in names.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::mem;
use std::ptr;
use std::sync::{Arc, OnceLock};

use cudarc::driver::{CudaContext, sys};

use super::device::rank_of;
use super::libcuda;
use crate::error::{Error, Result};

/// One node of a graph. Printed, it says what the node does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// With the function's own name, where the driver tells it.
    Kernel(Option<String>),
    Other(&'static str),
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Node::Kernel(name) => name.as_deref().unwrap_or("kernel"),
            Node::Other(what) => what,
        })
    }
}

/// The nodes, in the order in which the driver lists them.
///
/// # Safety
/// The graph is alive, and the context's.
pub(super) unsafe fn list(graph: sys::CUgraph, context: &Arc<CudaContext>) -> Result<Vec<Node>> {
    let calls = Calls::get().ok_or(Error::Unsupported {
        what: "looking into a graph",
        why: "the driver has no cuGraphGetNodes".into(),
    })?;
    let check = |call, code: c_int| match code {
        0 => Ok(()),
        code => Err(libcuda::code_error(rank_of(context), call, code)),
    };
    let graph = graph.cast::<c_void>();
    let mut count = 0;
    // SAFETY: without a list the call only counts.
    check("cuGraphGetNodes", unsafe {
        (calls.nodes)(graph, ptr::null_mut(), &mut count)
    })?;
    if count == 0 {
        return Ok(Vec::new()); // the driver takes no empty list
    }
    let mut nodes = vec![ptr::null_mut(); count];
    // SAFETY: the list has room for `count` nodes.
    check("cuGraphGetNodes", unsafe {
        (calls.nodes)(graph, nodes.as_mut_ptr(), &mut count)
    })?;
    nodes.truncate(count);

    let describe = |node| {
        let mut kind = 0;
        // SAFETY: the node is of the live graph.
        check("cuGraphNodeGetType", unsafe {
            (calls.kind)(node, &mut kind)
        })?;
        match (kind, &calls.names) {
            // SAFETY: the node is a kernel's.
            (KERNEL, Some(names)) => unsafe { names.of(node, check) }.map(Some).map(Node::Kernel),
            (KERNEL, None) => Ok(Node::Kernel(None)),
            (other, _) => Ok(Node::Other(what(other))),
        }
    };
    nodes.into_iter().map(describe).collect()
}

/// Whether the driver can name kernels: from CUDA 12.3 on.
pub(super) fn can_name_kernels() -> bool {
    Calls::get().is_some_and(|calls| calls.names.is_some())
}

/// `CU_GRAPH_NODE_TYPE_KERNEL`.
const KERNEL: c_int = 0;

pub(super) const MEM_ALLOC: &str = "mem alloc";
pub(super) const MEM_FREE: &str = "mem free";

/// The others of `CUgraphNodeType`.
fn what(kind: c_int) -> &'static str {
    match kind {
        1 => "memcpy",
        2 => "memset",
        3 => "host",
        4 => "graph",
        5 => "empty",
        6 => "event wait",
        7 => "event record",
        10 => MEM_ALLOC,
        11 => MEM_FREE,
        _ => "node",
    }
}

/// The function's own name in a C++ symbol, `f` of `_Z1fPfi`; other names as they are.
fn unmangled(symbol: &str) -> &str {
    let found = symbol.strip_prefix("_Z").and_then(|rest| {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let length = rest[..digits].parse::<usize>().ok()?;
        rest[digits..].get(..length)
    });
    found.unwrap_or(symbol)
}

/// `CUDA_KERNEL_NODE_PARAMS_v2`.
#[repr(C)]
struct KernelNode {
    function: *mut c_void,
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared_bytes: c_uint,
    params: *mut *mut c_void,
    extra: *mut *mut c_void,
    kernel: *mut c_void,
    context: *mut c_void,
}

type GetName = unsafe extern "C" fn(*mut *const c_char, *mut c_void) -> c_int;

/// The driver's functions for looking into a graph, in a table of our own: cudarc binds two of them
/// for some versions of CUDA only, panics where a driver lacks one, and has node types as an
/// `enum`, which a newer driver may overrun.
struct Calls {
    nodes: unsafe extern "C" fn(*mut c_void, *mut *mut c_void, *mut usize) -> c_int,
    kind: unsafe extern "C" fn(*mut c_void, *mut c_int) -> c_int,
    names: Option<Names>,
}

/// Those that name kernels.
struct Names {
    kernel: unsafe extern "C" fn(*mut c_void, *mut KernelNode) -> c_int,
    function_name: GetName,
    kernel_name: GetName,
}

impl Calls {
    fn get() -> Option<&'static Self> {
        static CALLS: OnceLock<Option<Calls>> = OnceLock::new();
        let look_up = || {
            // SAFETY: the types are those of cuda.h.
            unsafe {
                Some(Calls {
                    nodes: *libcuda::symbol("cuGraphGetNodes")?,
                    kind: *libcuda::symbol("cuGraphNodeGetType")?,
                    names: Names::look_up(),
                })
            }
        };
        CALLS.get_or_init(look_up).as_ref()
    }
}

impl Names {
    fn look_up() -> Option<Self> {
        // SAFETY: the types are those of cuda.h.
        unsafe {
            Some(Names {
                kernel: *libcuda::symbol("cuGraphKernelNodeGetParams_v2")?,
                function_name: *libcuda::symbol("cuFuncGetName")?,
                kernel_name: *libcuda::symbol("cuKernelGetName")?,
            })
        }
    }

    /// # Safety
    /// The node is a kernel's, of a graph that is alive.
    unsafe fn of(
        &self,
        node: *mut c_void,
        check: impl Fn(&'static str, c_int) -> Result<()>,
    ) -> Result<String> {
        // SAFETY: zero is a value of each of its fields.
        let mut kernel: KernelNode = unsafe { mem::zeroed() };
        // SAFETY: the node is a kernel's, and the structure is large enough for version 2 of its
        // description.
        check("cuGraphKernelNodeGetParams", unsafe {
            (self.kernel)(node, &mut kernel)
        })?;
        let mut name = ptr::null();
        // SAFETY: the driver fills one of the two handles, depending on how the kernel was loaded.
        check("cuFuncGetName or cuKernelGetName", unsafe {
            match kernel.function.is_null() {
                true => (self.kernel_name)(&mut name, kernel.kernel),
                false => (self.function_name)(&mut name, kernel.function),
            }
        })?;
        // SAFETY: the driver keeps the string as long as the kernel is loaded.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        Ok(unmangled(&name).to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_are_named_as_people_name_them() {
        assert_eq!(
            unmangled("_Z43ncclSymkDevKernel_AllReduce_AGxLL_R_sum_f3221ncclSymkDevWorkArgs4K"),
            "ncclSymkDevKernel_AllReduce_AGxLL_R_sum_f32"
        );
        for other in ["plain", "_Zsomething", "_Z99short", "_ZN4cute3addE", ""] {
            assert_eq!(unmangled(other), other);
        }
    }

    #[test]
    fn nodes_say_what_they_do() {
        assert_eq!(Node::Kernel(Some("add".into())).to_string(), "add");
        assert_eq!(Node::Kernel(None).to_string(), "kernel");
        assert_eq!(Node::Other(what(6)).to_string(), "event wait");
        for unknown in [-1, 8, 13, 99] {
            assert_eq!(what(unknown), "node");
        }
    }

    /// The numbers are cuda.h's, of which cudarc has a copy.
    #[test]
    fn kinds_are_numbered_as_the_driver_numbers_them() {
        use sys::CUgraphNodeType as Kind;
        let kinds = [
            (Kind::CU_GRAPH_NODE_TYPE_MEMCPY, "memcpy"),
            (Kind::CU_GRAPH_NODE_TYPE_MEMSET, "memset"),
            (Kind::CU_GRAPH_NODE_TYPE_HOST, "host"),
            (Kind::CU_GRAPH_NODE_TYPE_GRAPH, "graph"),
            (Kind::CU_GRAPH_NODE_TYPE_EMPTY, "empty"),
            (Kind::CU_GRAPH_NODE_TYPE_WAIT_EVENT, "event wait"),
            (Kind::CU_GRAPH_NODE_TYPE_EVENT_RECORD, "event record"),
            (Kind::CU_GRAPH_NODE_TYPE_MEM_ALLOC, "mem alloc"),
            (Kind::CU_GRAPH_NODE_TYPE_MEM_FREE, "mem free"),
        ];
        for (kind, name) in kinds {
            assert_eq!(what(kind as c_int), name);
        }
        assert_eq!(Kind::CU_GRAPH_NODE_TYPE_KERNEL as c_int, KERNEL);
        assert_eq!(
            size_of::<KernelNode>(),
            size_of::<sys::CUDA_KERNEL_NODE_PARAMS>()
        );
    }
}
