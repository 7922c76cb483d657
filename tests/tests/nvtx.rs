//! The ranges that a profiler sees, by a profiler of this test's own: NVTX asks a symbol of the
//! program for one. `cargo test -p symm-tests --features nvtx --test nvtx`

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::Mutex;

use symm_core::{Config, GraphPool, Host, ReduceOp, Result, groups, symm};

groups! {
    /// Tensor parallel.
    pub Tp = "tp";
}

/// What began and what ended, by thread: names of ranges, and of local ones their number.
static SEEN: Mutex<Vec<(String, Option<u64>)>> = Mutex::new(Vec::new());
static OPEN: Mutex<BTreeMap<u64, String>> = Mutex::new(BTreeMap::new());
static DEPTH: Mutex<i64> = Mutex::new(0);

/// `nvtxEventAttributes_v2` of nvToolsExt.h.
#[repr(C)]
struct Attributes {
    version: u16,
    size: u16,
    category: u32,
    color_type: i32,
    color: u32,
    payload_type: i32,
    reserved: i32,
    payload: u64,
    message_type: i32,
    message: *const c_char,
}

/// `NVTX_MESSAGE_TYPE_REGISTERED`, whose handles are those of [`register`]: their texts.
const REGISTERED: i32 = 3;

fn name(attributes: *const Attributes) -> (String, u64) {
    // SAFETY: NVTX passes attributes that live during the call.
    let attributes = unsafe { &*attributes };
    assert_eq!(attributes.message_type, REGISTERED);
    // SAFETY: `register` gave it, a text that is never freed.
    let text = unsafe { CStr::from_ptr(attributes.message) };
    (text.to_str().expect("UTF-8").to_owned(), attributes.payload)
}

/// `text` is a string of `wchar_t`.
extern "C" fn register(_domain: *mut c_void, text: *const u32) -> *const c_char {
    let at = |index| {
        // SAFETY: NVTX passes a string that ends with 0, behind which nothing is read.
        unsafe { *text.add(index) }
    };
    let text = (0..).map(at).take_while(|letter| *letter != 0);
    let text: Option<String> = text.map(char::from_u32).collect();
    CString::new(text.expect("Unicode"))
        .expect("no 0")
        .into_raw()
}

extern "C" fn start(_domain: *mut c_void, attributes: *const Attributes) -> u64 {
    let (name, _) = name(attributes);
    let mut open = OPEN.lock().expect("no panic");
    let id = open.last_key_value().map_or(1, |(last, _)| last + 1);
    open.insert(id, name);
    id
}

extern "C" fn end(_domain: *mut c_void, id: u64) {
    let name = OPEN.lock().expect("no panic").remove(&id);
    let name = name.expect("it began");
    SEEN.lock().expect("no panic").push((name, None));
}

extern "C" fn push(_domain: *mut c_void, attributes: *const Attributes) -> c_int {
    let (name, number) = name(attributes);
    SEEN.lock().expect("no panic").push((name, Some(number)));
    *DEPTH.lock().expect("no panic") += 1;
    0
}

extern "C" fn pop(_domain: *mut c_void) -> c_int {
    *DEPTH.lock().expect("no panic") -= 1;
    0
}

/// `NvtxExportTableCallbacks` of nvtxTypes.h.
#[derive(Debug)]
#[repr(C)]
pub struct Callbacks {
    size: usize,
    table: extern "C" fn(u32, *mut *mut *mut *const c_void, *mut u32) -> c_int,
}

extern "C" fn initialize(export: extern "C" fn(u32) -> *const Callbacks) -> c_int {
    const CALLBACKS: u32 = 1; // NVTX_ETID_CALLBACKS
    const CORE2: u32 = 5; // NVTX_CB_MODULE_CORE2
    let (mut table, mut size) = (std::ptr::null_mut(), 0);
    // SAFETY: NVTX gives its table, which is static.
    let callbacks = unsafe { &*export(CALLBACKS) };
    assert_eq!((callbacks.table)(CORE2, &raw mut table, &raw mut size), 1);
    let hooks = [
        (2, start as *const c_void),
        (3, end as *const c_void),
        (4, push as *const c_void),
        (5, pop as *const c_void),
        (11, register as *const c_void),
    ];
    for (index, hook) in hooks {
        assert!(index < size as usize);
        // SAFETY: the table has so many places, each for a function of the kind that its number names.
        unsafe { **table.add(index) = hook };
    }
    1
}

type Initialize = extern "C" fn(extern "C" fn(u32) -> *const Callbacks) -> c_int;

/// What NVTX asks for, by this name.
// SAFETY: nobody else in the program defines it; NVTX's own definition is weak.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
pub static InitializeInjectionNvtx2_fnptr: Initialize = initialize;

#[test]
fn a_profiler_sees_scopes_collectives_rounds_captures_and_launches() -> Result<()> {
    let lines = Config::<Host>::default().run(2, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        let line = line!() + 1;
        let scope = tp.scope()?;
        let mut x = scope.zeros::<f32>(100)?;
        scope.close()?;
        tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
        let pool = GraphPool::new(world.pool());
        let mut graph = pool.capture(world.stream(), |_pass| -> Result<_> {
            let mut sum = symm!(group = tp, { tp.empty::<f32>(100)? })?;
            tp.all_reduce(&x, &mut sum, ReduceOp::Sum)?;
            Ok(sum)
        })?;
        graph.launch()?;
        graph.output().to_vec()?;
        Ok(line)
    })?;
    let seen = SEEN.lock().expect("no panic");
    let count = |name: &str, number| {
        seen.iter()
            .filter(|(told, of)| told.starts_with(name) && *of == number)
            .count()
    };
    let file = file!();
    assert_eq!(
        count(&format!("scope of tp at {file}:{}", lines[0]), None),
        2,
        "{seen:?}"
    );
    // Eagerly, in the prime and in the capture, on two ranks.
    assert_eq!(count("all_reduce of tp", Some(400)), 6, "{seen:?}");
    // Of the group's arena, and of the graph pool's.
    assert_eq!(count("registration in tp", Some(8 << 20)), 4, "{seen:?}");
    assert_eq!(count(&format!("prime at {file}"), Some(0)), 2, "{seen:?}");
    assert_eq!(count(&format!("capture at {file}"), Some(0)), 2, "{seen:?}");
    assert_eq!(count("graph launch", Some(1)), 2, "{seen:?}");
    assert_eq!(
        (
            *DEPTH.lock().expect("no panic"),
            OPEN.lock().expect("no panic").len()
        ),
        (0, 0)
    );
    Ok(())
}
