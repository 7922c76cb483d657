//! What the crate tells a subscriber of `tracing`: the events and spans of what is rare, with their
//! fields, and nothing of what is not.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use symm_core::host::{At, CallKind, Fault, Options, What};
use symm_core::{
    Config, Error, GraphPool, Host, Pass, Path, ReduceOp, Result, World, groups, plain, symm,
};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

groups! {
    /// Tensor parallel.
    pub Tp = "tp";
}

const MIB: u64 = 1 << 20;

/// An event, or a span that was opened.
#[derive(Clone, Debug)]
struct Told {
    level: Level,
    target: &'static str,
    /// Of an event its message, of a span its name.
    what: String,
    fields: BTreeMap<&'static str, String>,
    /// The spans around an event, outermost first.
    spans: Vec<&'static str>,
}

impl Told {
    fn field(&self, name: &str) -> &str {
        self.fields
            .get(name)
            .unwrap_or_else(|| panic!("no {name}: {self:?}"))
    }

    fn number(&self, name: &str) -> f64 {
        let text = self.field(name);
        text.parse().unwrap_or_else(|_| panic!("{name} is {text}"))
    }

    fn is_at(&self, line: u32) -> bool {
        self.field("site")
            .starts_with(&format!("{}:{line}", file!()))
    }
}

static LOG: Mutex<Vec<Told>> = Mutex::new(Vec::new());

thread_local! {
    /// What a subscriber does on this thread when it is told something.
    static REACTION: RefCell<Option<Rc<dyn Fn()>>> = const { RefCell::new(None) };
}

struct Collect;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Collect {
    fn on_new_span(&self, span: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        let mut fields = Fields::default();
        span.record(&mut fields);
        tell(span.metadata(), fields, Vec::new());
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let spans = context.event_scope(event);
        let spans = spans.map(|spans| spans.from_root().map(|span| span.name()).collect());
        tell(event.metadata(), fields, spans.unwrap_or_default());
        let reaction = REACTION.with(|reaction| reaction.borrow().clone());
        if let Some(react) = reaction {
            react();
        }
    }
}

fn tell(metadata: &tracing::Metadata<'static>, mut fields: Fields, spans: Vec<&'static str>) {
    if !metadata.target().starts_with("symm_core::") {
        return;
    }
    let message = fields.0.remove("message");
    log().push(Told {
        level: *metadata.level(),
        target: metadata.target(),
        what: message.unwrap_or_else(|| metadata.name().into()),
        fields: fields.0,
        spans,
    });
}

#[derive(Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

fn log() -> MutexGuard<'static, Vec<Told>> {
    LOG.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One test at a time: ranks are threads, and watchdogs and reapers too.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    static START: Once = Once::new();
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    START.call_once(|| {
        let subscriber = tracing_subscriber::registry().with(Collect);
        tracing::subscriber::set_global_default(subscriber).expect("the only one");
    });
    log().clear();
    alone
}

/// What rank 0 told under these words so far.
fn told(what: &str) -> Vec<Told> {
    let all = log();
    let mine = all
        .iter()
        .filter(|told| told.what == what && told.field("rank") == "0");
    mine.cloned().collect()
}

fn one(what: &str) -> Told {
    match &told(what)[..] {
        [one] => one.clone(),
        others => panic!("{what}: {others:?} of {:?}", log()),
    }
}

fn config() -> Config<Host> {
    Config::<Host>::default()
        .first_segment(2 * MIB)
        .segment_cap(2 * MIB)
        .redzones(false)
}

#[test]
fn a_scope_that_registers_tells_its_growth_and_its_registration() -> Result<()> {
    let _alone = alone();
    let lines = config().run(2, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        let line = line!() + 1;
        let scope = tp.scope()?;
        let x = scope.zeros::<f32>(100)?;
        scope.close()?;
        x.to_vec().map(|_| line)
    })?;
    let line = lines[0];
    let grew = one("arena grew by a segment");
    assert_eq!((grew.target, grew.level), ("symm_core::pool", Level::INFO));
    assert!(grew.field("arena").starts_with("tp#"), "{grew:?}");
    assert_eq!(
        (grew.field("bytes"), grew.field("reserved")),
        ("2097152", "2097152")
    );
    let scope = one("scope");
    assert_eq!(
        (scope.target, scope.level),
        ("symm_core::scope", Level::DEBUG)
    );
    assert!(
        scope.field("group").starts_with("tp#") && scope.is_at(line),
        "{scope:?}"
    );
    let round = one("round");
    assert_eq!(
        (round.target, round.field("segments"), round.field("bytes")),
        ("symm_core::registration", "1", "2097152")
    );
    let registered = one("segment registered");
    assert_eq!(
        (registered.target, registered.level),
        ("symm_core::registration", Level::INFO)
    );
    assert_eq!(registered.spans, ["scope", "round"]);
    assert_eq!(
        (registered.field("segment"), registered.field("bytes")),
        ("0", "2097152")
    );
    assert_eq!(registered.field("group"), scope.field("group"));
    assert!(registered.is_at(line), "{registered:?}");
    assert!(
        (0.0..60_000.0).contains(&registered.number("ms")),
        "{registered:?}"
    );
    Ok(())
}

#[test]
fn what_has_nothing_new_to_do_tells_nothing() -> Result<()> {
    let _alone = alone();
    let quiet = config().run(2, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        let mut x = symm!(group = tp, { tp.zeros::<f32>(100)? })?;
        tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
        let pool = GraphPool::new(world.pool());
        let mut graph = pool.capture(world.stream(), |_pass| -> Result<_> {
            let mut sum = symm!(group = tp, { tp.empty::<f32>(100)? })?;
            tp.all_reduce(&x, &mut sum, ReduceOp::Sum)?;
            Ok(sum)
        })?;
        let mine = || {
            let rank = world.rank().to_string();
            log()
                .iter()
                .filter(|told| told.field("rank") == rank)
                .count()
        };
        let before = mine();
        assert!(before > 0);
        for _ in 0..50 {
            let mut y = symm!(group = tp, { tp.zeros::<f32>(100)? })?;
            tp.all_reduce_in_place(&mut y, ReduceOp::Sum)?;
            world.pool().zeros::<f32>(10)?.to_vec()?;
            graph.launch()?;
            graph.output().to_vec()?;
        }
        Ok(mine() - before)
    })?;
    assert_eq!(quiet, [0, 0], "{:?}", log());
    Ok(())
}

#[test]
fn each_growth_and_each_registration_is_one_line() -> Result<()> {
    let _alone = alone();
    config().run(2, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        tp.reserve(MIB)?;
        let kept = symm!(group = tp, {
            let each = (0..3).map(|_| tp.empty::<u8>(3 << 19));
            each.collect::<Result<Vec<_>>>()?
        })?;
        drop(kept);
        tp.trim().map(drop)
    })?;
    let grown: Vec<_> = told("arena grew by a segment")
        .iter()
        .map(|told| told.number("reserved"))
        .collect();
    let mib = MIB as f64;
    assert_eq!(grown, [2.0 * mib, 4.0 * mib, 6.0 * mib]);
    let registered: Vec<_> = told("segment registered")
        .iter()
        .map(|told| told.field("segment").to_owned())
        .collect();
    assert_eq!(registered, ["0", "1", "2"]);
    let rounds: Vec<_> = told("round")
        .iter()
        .map(|told| told.field("segments").to_owned())
        .collect();
    assert_eq!(rounds, ["1", "2"]);
    assert_eq!(one("arena trimmed").number("bytes"), 6.0 * mib);
    Ok(())
}

#[test]
fn a_capture_tells_its_passes_and_its_graph() -> Result<()> {
    let _alone = alone();
    let lines = config().run(2, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        let x = symm!(group = tp, { tp.zeros::<f32>(128)? })?;
        let pool = GraphPool::new(world.pool());
        let line = line!() + 1;
        let graph = pool.capture(world.stream(), |_pass| -> Result<_> {
            let mut sum = symm!(group = tp, { tp.empty::<f32>(128)? })?;
            tp.all_reduce(&x, &mut sum, ReduceOp::Sum)?;
            Ok(sum)
        })?;
        drop(graph);
        let failed = pool.capture(world.stream(), |pass| match pass {
            Pass::Prime => Ok(()),
            Pass::Capture => Err(Error::Config {
                what: "the step's own".into(),
            }),
        });
        assert!(failed.is_err());
        Ok(line)
    })?;
    for (name, passes) in [("prime", 2), ("capture", 2)] {
        let spans = told(name);
        assert_eq!(
            (spans.len(), spans[0].target),
            (passes, "symm_core::capture")
        );
        assert!(spans[0].is_at(lines[0]), "{spans:?}");
    }
    // In the prime, where the graph pool's arena grew for the first time.
    let grown = told("arena grew by a segment");
    assert_eq!(
        grown.iter().map(|told| &told.spans[..]).collect::<Vec<_>>(),
        [&[][..], &["prime"]]
    );
    let captured = one("graph captured");
    assert_eq!(
        (captured.target, captured.level),
        ("symm_core::capture", Level::INFO)
    );
    assert_eq!(captured.spans, ["capture"]);
    let fields = ["graph", "collectives", "leases", "bytes"].map(|name| captured.field(name));
    assert_eq!(fields, ["1.1", "1", "1", "512"]);
    assert!(
        captured.is_at(lines[0]) && captured.number("ms") >= 0.0,
        "{captured:?}"
    );
    let discarded = one("capture discarded");
    assert_eq!(
        (discarded.level, discarded.spans),
        (Level::WARN, vec!["capture"])
    );
    Ok(())
}

#[test]
fn a_path_is_told_when_an_operation_first_takes_it() -> Result<()> {
    let _alone = alone();
    config().run(2, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        let mut x = symm!(group = tp, { tp.zeros::<f32>(100)? })?;
        let foreign = world.pool().zeros::<f32>(100)?;
        for _ in 0..3 {
            tp.all_reduce_in_place(&mut x, ReduceOp::Sum)?;
            let path = tp.all_reduce(plain(&foreign), &mut x, ReduceOp::Sum)?;
            assert!(matches!(path, Path::Plain(_)));
        }
        x.to_vec().map(drop)
    })?;
    let paths = told("first collective on this path");
    let told: Vec<_> = paths
        .iter()
        .map(|told| {
            (
                told.field("operation"),
                told.field("path"),
                told.field("bytes"),
            )
        })
        .collect();
    let foreign = "plain: an operand is in no window of the group";
    assert_eq!(
        told,
        [
            ("all_reduce", "symmetric", "400"),
            ("all_reduce", foreign, "400")
        ]
    );
    assert!(
        paths
            .iter()
            .all(|told| (told.target, told.level) == ("symm_core::path", Level::DEBUG))
    );
    Ok(())
}

#[test]
fn a_calibration_tells_its_twin_and_its_table() -> Result<()> {
    let _alone = alone();
    let options = Options::default().costs("slow sums", |call| {
        let large = call.operation == "all_reduce" && call.bytes >= 16 << 10;
        if call.symmetric == large {
            20_000
        } else {
            10_000
        }
    });
    let folder = std::env::temp_dir().join(format!("symm-tracing-{}", std::process::id()));
    let config = Config::<Host>::default()
        .options(options)
        .cache_dir(&folder)
        .tuned(false);
    let ran = config.run(2, |world| world.split::<Tp>(0, 0)?.calibrate().map(drop));
    let _ = std::fs::remove_dir_all(&folder);
    ran?;
    assert_eq!(one("table of paths changed").field("twin"), "true");
    assert!(one("twin communicator made").number("ms") >= 0.0);
    let calibrated = one("group calibrated");
    assert!(
        calibrated.number("points") > 0.0 && calibrated.field("noisy") == "false",
        "{calibrated:?}"
    );
    Ok(())
}

#[test]
fn a_window_that_nccl_refuses_is_a_warning() -> Result<()> {
    let _alone = alone();
    let fault = Fault::new(1, At::Call(CallKind::Register, 1), What::Null);
    let config = config().options(Options::default().fault(fault));
    config.run(2, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        symm!(group = tp, { tp.zeros::<f32>(100)? })?
            .to_vec()
            .map(drop)
    })?;
    let refused = one("no window for the segment: collectives on it are plain");
    assert_eq!(
        (refused.level, refused.field("bytes")),
        (Level::WARN, "2097152")
    );
    assert_eq!(told("segment registered").len(), 0);
    Ok(())
}

#[test]
fn poison_is_an_error_on_every_rank_with_its_cause() {
    let _alone = alone();
    let outcomes = config().run_each(2, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        match world.rank() {
            0 => symm!(group = tp, { tp.zeros::<f32>(100)? }).map(drop),
            _ => Err(Error::Config {
                what: "the disk is full".into(),
            }),
        }
    });
    assert!(outcomes.iter().all(Result::is_err), "{outcomes:?}");
    let poisoned = one("world poisoned");
    assert_eq!(
        (poisoned.target, poisoned.level),
        ("symm_core::world", Level::ERROR)
    );
    assert_eq!(poisoned.field("failed"), "1");
    assert!(
        poisoned.field("cause").contains("the disk is full"),
        "{poisoned:?}"
    );
}

#[test]
fn a_rebuild_is_told() -> Result<()> {
    let _alone = alone();
    let fault = Fault::new(1, At::Call(CallKind::Register, 1), What::Fail);
    let config = config().options(Options::default().fault(fault));
    config.run(2, |world| {
        let tp = world.split::<Tp>(0, 0)?;
        assert!(symm!(group = tp, { tp.zeros::<f32>(100)? }).is_err());
        world.rebuild()?;
        symm!(group = tp, { tp.zeros::<f32>(100)? })?
            .to_vec()
            .map(drop)
    })?;
    assert_eq!(one("world poisoned").field("failed"), "1");
    assert_eq!(one("world rebuilt").level, Level::INFO);
    assert_eq!(told("segment registered").len(), 1);
    Ok(())
}

#[test]
fn a_subscriber_may_ask_the_pool() -> Result<()> {
    let _alone = alone();
    let asked = config().memory_history(100).run(1, |world: World<Host>| {
        let tp = world.split::<Tp>(0, 0)?;
        let (world, count) = (Rc::new(world), Rc::new(RefCell::new(Vec::new())));
        let reaction = {
            let (world, count) = (Rc::clone(&world), Rc::clone(&count));
            move || {
                let (stats, snapshot) = (world.pool().stats(), world.pool().snapshot());
                count
                    .borrow_mut()
                    .push((stats.segments, snapshot.segments.len()));
            }
        };
        REACTION.with(|place| *place.borrow_mut() = Some(Rc::new(reaction)));
        let outcome = (|| {
            let _x = symm!(group = tp, { tp.empty::<u8>(MIB as usize)? })?;
            let pool = GraphPool::new(world.pool());
            let step = |_pass| symm!(group = tp, { tp.empty::<u8>(MIB as usize)? });
            pool.capture(world.stream(), step).map(drop)
        })();
        REACTION.with(|place| place.borrow_mut().take());
        let asked = count.borrow().clone();
        outcome.map(|()| asked)
    })?;
    // Of the two growths, and of the graph.
    assert_eq!(asked[0], [(1, 1), (2, 2), (2, 2)]);
    Ok(())
}
