//! The page that `Snapshot::to_html` writes, in a headless Chromium.
//!
//! Without one these tests say so and do nothing, unless `SYMM_BROWSER` is set, as in CI: then they
//! fail. `SYMM_MAP=folder` keeps the pages and their pictures there.

#![allow(missing_docs)]

mod chromium;

use std::env;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use symm_core::{
    Buf, Config, GraphPool, Host, ReduceOp, Result, Snapshot, SymmBuf, World, groups, symm,
};

use chromium::Browser;

groups! {
    pub Tp = "tp";
    pub Cp = "cp";
}

const MIB: u64 = 1 << 20;

/// A browser, or why there is none.
fn browser() -> Option<Browser> {
    match (chromium::find(), env::var_os("SYMM_BROWSER")) {
        (Some(program), _) => Some(Browser::start(&program)),
        (None, Some(_)) => panic!(
            "SYMM_BROWSER is set and there is no Chromium: apt-get install chromium-headless-shell, or set SYMM_CHROMIUM to its path"
        ),
        (None, None) => {
            eprintln!(
                "SKIPPED, NOTHING WAS TESTED: there is no Chromium (apt-get install chromium-headless-shell, or set SYMM_CHROMIUM to its path)"
            );
            None
        }
    }
}

/// A file that goes with the test, or stays for who wants to look.
struct Page(PathBuf);

impl Page {
    fn write(name: &str, html: &str) -> Self {
        let folder = env::var_os("SYMM_MAP").map_or_else(env::temp_dir, PathBuf::from);
        let file = folder.join(format!("symm-map-{name}-{}.html", std::process::id()));
        fs::write(&file, html).expect("the page is written");
        Self(file)
    }

    /// Keeps a picture, if pages are kept.
    fn picture(&self, browser: &mut Browser, suffix: &str) {
        let picture = browser.picture();
        if env::var_os("SYMM_MAP").is_some() {
            fs::write(self.0.with_extension(format!("{suffix}.base64")), picture)
                .expect("it is written");
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        if env::var_os("SYMM_MAP").is_none() {
            let _ = fs::remove_file(&self.0);
        }
    }
}

/// Nothing went wrong in the page, and nothing was fetched but the page.
fn clean(browser: &Browser) {
    let methods = [
        "Runtime.exceptionThrown",
        "Runtime.consoleAPICalled",
        "Log.entryAdded",
    ];
    for event in &browser.events {
        let method = event["method"].as_str().unwrap_or_default();
        assert!(!methods.contains(&method), "{event}");
        if method == "Network.requestWillBeSent" {
            let url = event["params"]["request"]["url"]
                .as_str()
                .unwrap_or_default();
            assert!(
                url.starts_with("file://") || url.starts_with("data:"),
                "{url}"
            );
        }
    }
}

/// A snapshot of two groups, a graph, a freed range, ordinary memory; with the line of its first block.
fn small() -> Result<(Snapshot, u32)> {
    let config = Config::<Host>::default()
        .first_segment(2 * MIB)
        .segment_cap(2 * MIB);
    let config = config.redzones(false).memory_history(1000);
    let rank = |world: World<Host>| {
        let (tp, cp) = (world.split::<Tp>(0, 0)?, world.split::<Cp>(0, 0)?);
        let line = line!() + 1;
        let x = symm!(group = tp, { tp.zeros::<f32>(128 << 10)? })?;
        let gone = symm!(group = tp, { tp.zeros::<f32>(64 << 10)? })?;
        let y = symm!(group = tp, { tp.zeros::<f32>(64 << 10)? })?;
        let cache = symm!(group = cp, {
            SymmBuf::<u8, Cp, Host>::zeros(MIB as usize)?
        })?;
        let plain: Buf<u8, Host> = Buf::zeros(12345)?;
        drop(gone);
        let pool = GraphPool::new(world.pool());
        let graph = pool.capture(world.stream(), |_pass| -> Result<_> {
            let (mut sum, _scratch) = symm!(group = tp, {
                (tp.empty::<f32>(128 << 10)?, tp.empty::<f32>(128 << 10)?)
            })?;
            tp.all_reduce(&x, &mut sum, ReduceOp::Sum)?;
            Ok(sum)
        })?;
        let snapshot = world.pool().snapshot();
        drop((x, y, cache, plain, graph));
        Ok((snapshot, line))
    };
    Ok(config.run(2, rank)?.swap_remove(0))
}

/// Ten thousand blocks of two groups in segments of 16 MiB, as a program would leave them.
fn large() -> Result<Snapshot> {
    let config = Config::<Host>::default()
        .first_segment(16 * MIB)
        .segment_cap(16 * MIB);
    let config = config.redzones(false).memory_history(1 << 16);
    let rank = |world: World<Host>| {
        let (tp, cp) = (world.split::<Tp>(0, 0)?, world.split::<Cp>(0, 0)?);
        let mut random = fastrand::Rng::with_seed(3);
        let mut live: Vec<Buf<u8, Host>> = Vec::new();
        while live.len() < 10_000 {
            let bytes = 512 * random.usize(1..16);
            live.push(match live.len() % 3 {
                0 => symm!(group = cp, { cp.empty::<u8>(bytes)? })?.into_buf(),
                1 => symm!(group = tp, { tp.empty::<u8>(bytes)? })?.into_buf(),
                _ => symm!(group = tp, { SymmBuf::<u8, Tp, Host>::empty(bytes)? })?.into_buf(),
            });
            if random.u8(..) < 40 {
                live.swap_remove(random.usize(..live.len()));
            }
        }
        Ok(world.pool().snapshot())
    };
    Ok(config.run(1, rank)?.swap_remove(0))
}

/// The middle of a part of a segment's bar, on the screen.
fn spot(browser: &mut Browser, segment: usize, part: f64) -> (f64, f64) {
    let place = browser.eval(&format!(
        "(() => {{ const bar = document.querySelectorAll('#map canvas')[{segment}]; bar.scrollIntoView({{block: 'center'}}); const box = bar.getBoundingClientRect(); return [box.left + box.width * {part}, box.top + box.height / 2]; }})()"
    ));
    (place[0].as_f64().expect("x"), place[1].as_f64().expect("y"))
}

/// Ends when what there is to draw is drawn.
const FRAME: &str =
    "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))";

const TIP: &str = "document.getElementById('tip')";

/// What the tooltip says, by its terms; its heading is under "".
fn tip(browser: &mut Browser) -> Value {
    browser.eval(&format!(
        "(() => {{ const tip = {TIP}; if (tip.hidden) return null; const terms = [...tip.querySelectorAll('dt')].map((dt) => [dt.textContent, dt.nextSibling.textContent]); return Object.fromEntries([['', tip.querySelector('b').textContent], ...terms]); }})()"
    ))
}

/// The colour of a pixel in the middle of a bar.
fn color(browser: &mut Browser, segment: usize, part: f64) -> Value {
    browser.eval(&format!(
        "(() => {{ const bar = document.querySelectorAll('#map canvas')[{segment}]; return [...bar.getContext('2d').getImageData(bar.width * {part}, bar.height / 2, 1, 1).data].slice(0, 3); }})()"
    ))
}

#[test]
fn the_page_shows_what_lies_where_and_tells_who_put_it_there() -> Result<()> {
    let Some(mut browser) = browser() else {
        return Ok(());
    };
    let (snapshot, line) = small()?;
    let page = Page::write("small", &snapshot.to_html());
    browser.open(&page.0);
    assert_eq!(browser.text("document.title"), "Memory of rank 0");
    let bars = browser.number("document.querySelectorAll('#map canvas').length");
    assert_eq!(bars as usize, snapshot.segments.len());
    let rows = browser.text("document.getElementById('map').textContent");
    assert!(
        rows.contains("window in tp#") && rows.contains("window in cp#"),
        "{rows}"
    );

    // The first block: a quarter of its segment.
    let (x, y) = spot(&mut browser, 0, 0.1);
    browser.point(x, y);
    let told = tip(&mut browser);
    let first = &snapshot.blocks[0];
    assert_eq!(told[""], json!(format!("{}:{line}", file!())), "{told}");
    assert_eq!(told["Group"], json!(first.group), "{told}");
    assert_eq!(told["Bytes"], "512 KiB (524,288 B)", "{told}");
    assert_eq!(told["Graph"], snapshot.graphs[0].name.to_string(), "{told}");
    assert!(
        told["Age"].as_str().is_some_and(|age| age.contains('s')),
        "{told}"
    );
    assert!(
        told["Place"]
            .as_str()
            .is_some_and(|place| place.contains("segment 0, offset 0")),
        "{told}"
    );
    // What was freed, and what nobody has.
    for part in [0.3, 0.9] {
        let (x, y) = spot(&mut browser, 0, part);
        browser.point(x, y);
        assert_eq!(tip(&mut browser)[""], "Free");
    }
    // Away from it.
    browser.point(2.0, 2.0);
    assert_eq!(tip(&mut browser), Value::Null);

    // Blocks have the colours of their groups, and others where the user prefers dark.
    let mut colors = Vec::new();
    for scheme in ["light", "dark"] {
        browser.prefer(scheme);
        browser.eval(FRAME);
        let seen: Vec<Value> = [(0, 0.1), (1, 0.1), (0, 0.9)]
            .map(|(bar, part)| color(&mut browser, bar, part))
            .into();
        assert!(
            seen[0] != seen[1] && seen[0] != seen[2] && seen[1] != seen[2],
            "{seen:?}"
        );
        colors.push(seen);
        page.picture(&mut browser, scheme);
    }
    assert_ne!(colors[0][2], colors[1][2]);

    // Tables, for who sees no canvas: every site with its bytes.
    let table = browser.text("document.getElementById('owners').textContent");
    assert!(
        table.contains(&format!("{}:{line}", file!())) && table.contains("524,288"),
        "{table}"
    );
    browser.eval("document.getElementById('blocks').open = true");
    let listed = "document.querySelectorAll('#list tbody tr').length";
    assert_eq!(browser.number(listed) as usize, snapshot.blocks.len());
    let plain = browser.text("document.getElementById('plainlist').textContent");
    assert!(plain.contains("12,345"), "{plain}");
    let label = browser.text("document.querySelector('#map canvas').getAttribute('aria-label')");
    assert!(label.contains("38 % live in 2 blocks"), "{label}");
    let paths = "document.querySelectorAll('#time path').length";
    assert_eq!(browser.number(paths), 4.0);
    clean(&browser);
    Ok(())
}

#[test]
fn the_page_can_be_filtered_looked_at_closely_and_used_without_a_mouse() -> Result<()> {
    let Some(mut browser) = browser() else {
        return Ok(());
    };
    let (snapshot, line) = small()?;
    let page = Page::write("filter", &snapshot.to_html());
    browser.open(&page.0);
    let sum = "document.getElementById('matching').textContent";
    let all = browser.text(sum);
    let before = color(&mut browser, 0, 0.1);
    browser.eval("document.querySelector('#groups button').click()");
    assert_ne!(color(&mut browser, 0, 0.1), before, "dimmed");
    assert_eq!(browser.text(sum), "1 live block, 1 MiB");
    browser.eval("document.getElementById('reset').click()");
    assert_eq!(
        (browser.text(sum), color(&mut browser, 0, 0.1)),
        (all.clone(), before.clone())
    );
    let site = format!("main.rs:{line}");
    browser.eval(&format!(
        "document.getElementById('site').value = '{site}'; document.getElementById('site').dispatchEvent(new Event('input'))"
    ));
    assert_eq!(browser.text(sum), "1 live block, 512 KiB");
    browser.eval("document.getElementById('reset').click()");
    browser.eval(
        "document.getElementById('graph').value = '0'; document.getElementById('graph').dispatchEvent(new Event('change'))",
    );
    // The buffer that it keeps, and its own output.
    assert_eq!(browser.text(sum), "2 live blocks, 1 MiB");
    browser.eval("document.getElementById('reset').click()");
    assert_eq!(browser.text(sum), all);

    // Closer: the first eighth, all of which the first block fills.
    let (from, to) = (spot(&mut browser, 0, 0.001), spot(&mut browser, 0, 0.125));
    let free = color(&mut browser, 0, 0.9);
    browser.drag(from, to);
    browser.point(2.0, 2.0);
    assert_eq!(color(&mut browser, 0, 0.9), before);
    browser.eval("document.querySelector('#map canvas').focus()");
    browser.key("Escape");
    assert_eq!(color(&mut browser, 0, 0.9), free);

    // From block to block.
    let mut told = Vec::new();
    for _ in 0..3 {
        browser.key("ArrowRight");
        told.push(tip(&mut browser)["Bytes"].clone());
    }
    assert_eq!(
        told,
        [
            "512 KiB (524,288 B)",
            "256 KiB (262,144 B)",
            "256 KiB (262,144 B)"
        ]
    );
    browser.eval("document.getElementById('time').focus()");
    browser.key("End");
    let told = tip(&mut browser);
    assert!(
        told["Live"]
            .as_str()
            .is_some_and(|live| live.contains(" B)")),
        "{told}"
    );
    clean(&browser);
    Ok(())
}

#[test]
fn names_of_users_are_text_and_nothing_else() -> Result<()> {
    let Some(mut browser) = browser() else {
        return Ok(());
    };
    let (snapshot, _) = small()?;
    let evil = "</script><img src=x onerror=\"document.title='owned'\"><b>&amp;";
    let json = serde_json::to_string(&snapshot).expect("JSON");
    let quoted = serde_json::to_string(evil).expect("JSON");
    let json = json.replace("\"private\"", &quoted);
    let json = json.replace(file!(), &quoted[1..quoted.len() - 1]);
    let snapshot: Snapshot = serde_json::from_str(&json).expect("a snapshot");
    let page = Page::write("evil", &snapshot.to_html());
    browser.open(&page.0);
    let (x, y) = spot(&mut browser, 0, 0.1);
    browser.point(x, y);
    let told = tip(&mut browser);
    assert!(
        told[""].as_str().is_some_and(|site| site.starts_with(evil)),
        "{told}"
    );
    assert_eq!(browser.text("document.title"), "Memory of rank 0");
    assert_eq!(browser.number("document.images.length"), 0.0);
    clean(&browser);
    Ok(())
}

#[test]
fn an_empty_pool_has_a_page_too() -> Result<()> {
    let Some(mut browser) = browser() else {
        return Ok(());
    };
    let empty = World::<Host>::run(1, |world| Ok(world.pool().snapshot()))?.swap_remove(0);
    let page = Page::write("empty", &empty.to_html());
    browser.open(&page.0);
    let map = browser.text("document.getElementById('map').textContent");
    assert_eq!(map, "No segments.");
    assert!(
        browser
            .text("document.getElementById('about').textContent")
            .contains("record(true)")
    );
    clean(&browser);
    Ok(())
}

/// Milliseconds for which a page of ten thousand blocks may keep its reader waiting: of the main
/// thread's own work, because other tests run on the same cores.
const QUICK: f64 = 100.0;

#[test]
fn ten_thousand_blocks_are_drawn_and_told_at_once() -> Result<()> {
    let Some(mut browser) = browser() else {
        return Ok(());
    };
    let snapshot = large()?;
    let html = snapshot.to_html();
    let page = Page::write("large", &html);
    // What a page without blocks costs is the browser's own start.
    let empty = Page::write("nothing", &Snapshot::default().to_html());
    let [alone, all] = [&empty, &page].map(|page| {
        browser.open(&page.0);
        browser.eval(FRAME);
        browser.worked()
    });
    let drawn = all - alone;
    let blocks = browser.number("count");
    assert!(blocks >= 10_000.0, "{blocks}");
    let mut told = 0.0f64;
    for step in 1..20 {
        let (x, y) = spot(&mut browser, step % 2, step as f64 / 20.0);
        browser.eval(FRAME);
        let before = browser.worked();
        browser.point(x, y);
        browser.eval(FRAME);
        told = told.max(browser.worked() - before);
        let tip = tip(&mut browser);
        assert!(tip.is_object(), "{tip}");
    }
    page.picture(&mut browser, "light");
    let before = browser.worked();
    browser.eval("document.querySelector('#groups button').click()");
    browser.eval(FRAME);
    let filtered = browser.worked() - before;
    browser.eval("document.getElementById('blocks').open = true");
    browser.eval(FRAME);
    let listed = browser.number("document.querySelectorAll('#list tbody tr').length");
    assert_eq!(listed, 200.0);
    println!(
        "{blocks} ranges, {} KiB: drawn in {drawn:.1} ms (with the browser's start {all:.1} ms), told in {told:.1} ms, filtered in {filtered:.1} ms",
        html.len() >> 10,
    );
    assert!(drawn < QUICK && told < QUICK && filtered < QUICK);
    clean(&browser);
    Ok(())
}
