//! A headless Chromium, driven by its DevTools protocol.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

/// How long Chromium may take for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where Debian and others put it; the first is without a window system, and the smallest.
const NAMES: [&str; 5] = [
    "chromium-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
    "chrome",
];

/// `$SYMM_CHROMIUM`, else the first one that is in the path.
pub(crate) fn find() -> Option<PathBuf> {
    if let Some(path) = env::var_os("SYMM_CHROMIUM") {
        return Some(path.into());
    }
    let folders: Vec<PathBuf> = env::split_paths(&env::var_os("PATH")?).collect();
    let in_path = |name: &&str| {
        folders
            .iter()
            .map(|folder| folder.join(name))
            .find(|file| file.is_file())
    };
    NAMES.iter().find_map(in_path)
}

/// A browser with one page; ends with the value.
#[derive(Debug)]
pub(crate) struct Browser {
    process: Child,
    profile: PathBuf,
    socket: WebSocket<TcpStream>,
    session: String,
    calls: u64,
    /// Requests, messages on the console and exceptions so far.
    pub(crate) events: Vec<Value>,
}

impl Browser {
    pub(crate) fn start(program: &Path) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let profile = env::temp_dir().join(format!("symm-map-{}-{number}", std::process::id()));
        let mut process = Command::new(program)
            .args([
                "--headless",
                "--disable-gpu",
                "--no-first-run",
                "--disable-quic",
            ])
            // Nothing of its own goes out to the network.
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ])
            // Its sandbox needs rights that containers have not; the page is our own.
            .args(["--no-sandbox", "--disable-dev-shm-usage"])
            .args(["--window-size=1200,1000", "--remote-debugging-port=0"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let mut log = BufReader::new(process.stderr.take().expect("it is piped"));
        let address = address(&mut log);
        // Read to the end, so that it never waits for a reader.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        let host = address.trim_start_matches("ws://").split('/').next();
        let stream = TcpStream::connect(host.expect("a host")).expect("Chromium listens");
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a time limit");
        let (socket, _) = tungstenite::client(&address, stream).expect("a WebSocket");
        let mut browser = Self {
            process,
            profile,
            socket,
            session: String::new(),
            calls: 0,
            events: Vec::new(),
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", attach);
        browser.session = session["sessionId"].as_str().expect("a session").into();
        for domain in ["Page", "Runtime", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        // Of the page's main thread alone, whatever else the machine does meanwhile.
        browser.call("Performance.enable", json!({"timeDomain": "threadTicks"}));
        browser
    }

    /// Milliseconds that the page's main thread has worked since the page was opened.
    pub(crate) fn worked(&mut self) -> f64 {
        let metrics = self.call("Performance.getMetrics", json!({}));
        let metrics = metrics["metrics"].as_array().expect("a list");
        let tasks = metrics
            .iter()
            .find(|metric| metric["name"] == "TaskDuration");
        let seconds = tasks.and_then(|tasks| tasks["value"].as_f64());
        1000.0 * seconds.expect("a figure")
    }

    /// Opens the page and waits until it is loaded.
    pub(crate) fn open(&mut self, file: &Path) {
        self.events.clear();
        let url = format!("file://{}", file.display());
        let opened = self.call("Page.navigate", json!({"url": url}));
        assert_eq!(opened.get("errorText"), None, "{url}");
        while !self
            .events
            .iter()
            .any(|event| event["method"] == "Page.loadEventFired")
        {
            self.read();
        }
    }

    /// The value of an expression.
    pub(crate) fn eval(&mut self, expression: &str) -> Value {
        let call = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut answer = self.call("Runtime.evaluate", call);
        assert_eq!(answer.get("exceptionDetails"), None, "{expression}");
        answer["result"]["value"].take()
    }

    pub(crate) fn text(&mut self, expression: &str) -> String {
        let value = self.eval(expression);
        value
            .as_str()
            .unwrap_or_else(|| panic!("{expression} is {value}"))
            .into()
    }

    pub(crate) fn number(&mut self, expression: &str) -> f64 {
        let value = self.eval(expression);
        value
            .as_f64()
            .unwrap_or_else(|| panic!("{expression} is {value}"))
    }

    /// Moves the mouse, as a hand would.
    pub(crate) fn point(&mut self, x: f64, y: f64) {
        self.mouse("mouseMoved", x, y);
    }

    /// Presses, moves and lets go.
    pub(crate) fn drag(&mut self, from: (f64, f64), to: (f64, f64)) {
        self.mouse("mousePressed", from.0, from.1);
        self.mouse("mouseMoved", to.0, to.1);
        self.mouse("mouseReleased", to.0, to.1);
    }

    fn mouse(&mut self, kind: &str, x: f64, y: f64) {
        let button = if kind == "mouseMoved" { "none" } else { "left" };
        let event = json!({"type": kind, "x": x, "y": y, "button": button, "clickCount": 1});
        self.call("Input.dispatchMouseEvent", event);
    }

    pub(crate) fn key(&mut self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            self.call(
                "Input.dispatchKeyEvent",
                json!({"type": kind, "key": key, "code": key}),
            );
        }
    }

    /// As a user who prefers dark pages, or light ones.
    pub(crate) fn prefer(&mut self, scheme: &str) {
        let feature = json!({"name": "prefers-color-scheme", "value": scheme});
        self.call("Emulation.setEmulatedMedia", json!({"features": [feature]}));
    }

    /// A picture of all of the page, as PNG in base64.
    pub(crate) fn picture(&mut self) -> String {
        let answer = self.call(
            "Page.captureScreenshot",
            json!({"captureBeyondViewport": true}),
        );
        answer["data"].as_str().expect("a picture").into()
    }

    pub(crate) fn call(&mut self, method: &str, params: Value) -> Value {
        self.calls += 1;
        let id = self.calls;
        let mut call = json!({"id": id, "method": method, "params": params});
        if !self.session.is_empty() {
            call["sessionId"] = json!(self.session);
        }
        let sent = self.socket.send(Message::text(call.to_string()));
        sent.unwrap_or_else(|error| panic!("{method}: {error}"));
        loop {
            if let Some(mut answer) = self.read().filter(|answer| answer["id"] == id) {
                assert_eq!(answer.get("error"), None, "{method}");
                return answer["result"].take();
            }
        }
    }

    /// The next message, if it is an answer; events are kept.
    fn read(&mut self) -> Option<Value> {
        let message = self.socket.read().expect("Chromium answers");
        let Message::Text(text) = message else {
            return None;
        };
        let message: Value = serde_json::from_str(&text).expect("it speaks JSON");
        match message.get("id") {
            Some(_) => Some(message),
            None => {
                self.events.push(message);
                None
            }
        }
    }
}

/// The address of its DevTools, which it says when it has started.
fn address(log: &mut impl BufRead) -> String {
    let mut said = String::new();
    loop {
        let from = said.len();
        let read = log.read_line(&mut said).expect("Chromium's log is text");
        assert!(read > 0, "Chromium ended at its start: {said}");
        if let Some(address) = said[from..].trim().strip_prefix("DevTools listening on ") {
            return address.into();
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.profile);
    }
}
