//! Captured work: as it was captured, and ready to be launched.

use std::mem;
use std::ptr;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};

use super::device::{Device, stream_error};
use super::mode::Relaxed;
use super::nodes::{self, Node};
use crate::error::{Error, Result};

/// What a capture gave. Nothing of it runs.
#[derive(Debug)]
pub(super) struct Template {
    graph: sys::CUgraph,
    context: Arc<CudaContext>,
}

impl Template {
    /// # Safety
    /// `graph` is a graph of the context's device that nobody else destroys.
    pub(super) unsafe fn own(graph: sys::CUgraph, context: &Arc<CudaContext>) -> Self {
        Self {
            graph,
            context: Arc::clone(context),
        }
    }

    /// Makes it ready to be launched on `stream`. Waits for nothing: what the device needs for the
    /// first launch is uploaded behind the stream's work.
    pub(super) fn instantiate(self, stream: &CudaStream) -> Result<Graph> {
        let count = |what| -> Result<usize> {
            let nodes = self.nodes()?;
            Ok(nodes
                .iter()
                .filter(|node| **node == Node::Other(what))
                .count())
        };
        if count(nodes::MEM_ALLOC)? != count(nodes::MEM_FREE)? {
            return Err(Error::Unsupported {
                what: "a graph that allocates memory and keeps it, or frees memory that it did not allocate",
                why: "its second launch would fail: allocate and drop cudarc's slices outside of the capture, or take Buf".into(),
            });
        }
        let defaults = sys::CUgraphInstantiate_flags(0);
        // SAFETY: the graph is alive.
        let exec = unsafe { result::graph::instantiate(self.graph, defaults) }
            .map_err(|error| stream_error(stream, "cuGraphInstantiateWithFlags", error))?;
        let graph = Graph {
            exec,
            template: self,
        };
        // SAFETY: both are alive.
        unsafe { result::graph::upload(exec, stream.cu_stream()) }
            .map_err(|error| stream_error(stream, "cuGraphUpload", error))?;
        Ok(graph)
    }

    /// In the order in which the driver lists them.
    pub(super) fn nodes(&self) -> Result<Vec<Node>> {
        // SAFETY: the graph is alive.
        unsafe { nodes::list(self.graph, &self.context) }
    }

    fn destroy(&mut self) -> Result<(), DriverError> {
        match mem::replace(&mut self.graph, ptr::null_mut()) {
            graph if graph.is_null() => Ok(()),
            // SAFETY: owned, and forgotten before this.
            graph => unsafe { result::graph::destroy(graph) },
        }
    }
}

impl Drop for Template {
    fn drop(&mut self) {
        let destroyed = self.destroy();
        self.context.record_err(destroyed);
    }
}

/// Captured work, to be launched any number of times. NCCL's share of it (its plans, and the count
/// that keeps a communicator alive) goes when both handles are destroyed.
#[derive(Debug)]
pub struct Graph {
    exec: sys::CUgraphExec,
    /// Kept for the names of its nodes.
    template: Template,
}

// SAFETY: no thread owns a graph. The driver wants its calls on one graph made one at a time
// ("Graph object thread safety" in its reference), and a `Graph` is not `Sync`.
unsafe impl Send for Graph {}

impl Graph {
    /// # Safety
    /// As for `Driver::launch_graph`.
    pub(super) unsafe fn launch(&self, device: &Device, stream: &CudaStream) -> Result<()> {
        device.bind()?;
        // SAFETY: both are alive; the caller vouches for what was captured.
        unsafe { result::graph::launch(self.exec, stream.cu_stream()) }
            .map_err(|error| device.error("cuGraphLaunch", error))
    }

    pub(super) fn nodes(&self, device: &Device) -> Result<Vec<String>> {
        device.bind()?;
        let nodes = self.template.nodes()?;
        Ok(nodes.iter().map(ToString::to_string).collect())
    }

    pub(super) fn destroy(mut self, device: &Device) -> Result<()> {
        if !device.bind_to_release()? {
            return Ok(());
        }
        let _relaxed = Relaxed::if_strict(device)?;
        let exec = self.destroy_exec();
        let template = self.template.destroy();
        exec.map_err(|error| device.error("cuGraphExecDestroy", error))?;
        template.map_err(|error| device.error("cuGraphDestroy", error))
    }

    fn destroy_exec(&mut self) -> Result<(), DriverError> {
        match mem::replace(&mut self.exec, ptr::null_mut()) {
            exec if exec.is_null() => Ok(()),
            // SAFETY: owned, and forgotten before this.
            exec => unsafe { result::graph::exec_destroy(exec) },
        }
    }
}

impl Drop for Graph {
    /// Nothing is left of one that was destroyed.
    fn drop(&mut self) {
        let destroyed = self.destroy_exec();
        self.template.context.record_err(destroyed);
    }
}
