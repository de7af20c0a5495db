//! The driver in a process of its own. What a driver remembers lives as long as its process, so a restart is a new process; and
//! who else has the store open is a matter between processes.
//!
//! The other process is the test binary again, running the one test that every binary with such tests has:
//! ```ignore
//! #[test]
//! fn another_process_answers() {
//!     common::process::another_process_answers();
//! }
//! ```
//! It is told what to do through a socket that is its standard input, a line of JSON for each call, and ends with the socket.

use super::programs;
use super::subject::{C, Failure, Outcome, Rust, Subject};
use graphdriver::driver::Access;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const MARK: &str = "GRAPHDRIVER_TEST_PROCESS";
const TEST: &str = "another_process_answers";
/// Longer than any call takes; only what hangs takes longer.
const PATIENCE: Duration = Duration::from_secs(90);
const HALFWAY: &str = "halfway";

/// A process that does as it is told. It is killed when this is dropped.
pub struct Process {
    child: Mutex<Child>,
    answers: Mutex<BufReader<UnixStream>>,
    kind: &'static str,
}

impl Process {
    /// A new process in the calling thread's mount namespace, without a driver yet; `kind` is that of its [`Subject`].
    pub fn start(kind: &'static str) -> Process {
        Process::under(&[], kind)
    }

    /// The same, started by a program that is given the command as its last arguments.
    pub fn under(wrapper: &[&str], kind: &'static str) -> Process {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        let here = super::this_program();
        let mut words: Vec<&std::ffi::OsStr> = wrapper.iter().map(AsRef::as_ref).collect();
        words.push(here.as_os_str());
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args([TEST, "--exact", "--nocapture"]).env(MARK, kind);
        let child = command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Process { child: Mutex::new(child), answers: Mutex::new(BufReader::new(ours)), kind }
    }

    pub fn pid(&self) -> u32 {
        self.child.lock().unwrap().id()
    }

    /// Ends it at once, as a crash does.
    pub fn kill(&self) {
        let mut child = self.child.lock().unwrap();
        let _ = child.kill();
        child.wait().unwrap();
    }

    /// Ends it in an orderly way: its driver is cleaned up.
    pub fn end(self) {
        self.cleanup().unwrap();
    }

    pub fn is_alive(&self) -> bool {
        self.child.lock().unwrap().try_wait().unwrap().is_none()
    }

    /// Starts to unpack what the archive has so far and comes back when all of it was read; the unpack never ends by itself.
    pub fn unpack_halfway(&self, id: &str, archive: &[u8]) {
        let file = Handed::over(archive);
        self.send(&json!({"do": HALFWAY, "id": id, "archive": file.0}));
        assert_eq!(self.receive("unpack halfway").unwrap(), json!(HALFWAY));
    }

    /// Runs a program of [`programs`] there; it fails if the program panics.
    pub fn run(&self, program: &str) -> Outcome<()> {
        self.call(json!({"do": "run", "program": program})).map(drop)
    }

    fn send(&self, call: &Value) {
        let answers = self.answers.lock().unwrap();
        answers.get_ref().write_all(format!("{call}\n").as_bytes()).expect("the other process is gone");
    }

    fn receive(&self, what: &str) -> Outcome<Value> {
        let mut line = String::new();
        match self.answers.lock().unwrap().read_line(&mut line) {
            Ok(0) => panic!("the other process ended in '{what}'"),
            Ok(_) => {}
            Err(e) => panic!("the other process hangs in '{what}': {e}"),
        }
        let answer: Value = serde_json::from_str(&line).unwrap();
        match answer.get("errno") {
            None => Ok(answer["ok"].clone()),
            Some(errno) => Err(Failure {
                errno: i32::try_from(errno.as_i64().unwrap()).unwrap(),
                text: answer["text"].as_str().unwrap().to_owned(),
            }),
        }
    }

    fn call(&self, call: Value) -> Outcome<Value> {
        self.send(&call);
        self.receive(call["do"].as_str().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// An archive in a file, for the other process to read.
struct Handed(PathBuf);

impl Handed {
    fn over(archive: &[u8]) -> Handed {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("graphdriver-archive-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, archive).unwrap();
        Handed(path)
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn pairs(value: &Value) -> Vec<(String, String)> {
    serde_json::from_value(value.clone()).unwrap()
}

impl Subject for Process {
    fn kind(&self) -> &'static str {
        self.kind
    }
    fn init(&self, name: &str, storage_root: &Path, options: &[&str]) -> Outcome<()> {
        self.call(json!({"do": "init", "name": name, "root": storage_root, "options": options})).map(drop)
    }
    fn create(
        &self,
        id: &str,
        parent: Option<&str>,
        access: Access,
        storage: &[(&str, &str)],
    ) -> Outcome<Vec<(String, String)>> {
        let writable = access == Access::ReadWrite;
        let call = json!({"do": "create", "id": id, "parent": parent, "writable": writable, "storage": storage});
        self.call(call).map(|value| pairs(&value))
    }
    fn remove(&self, id: &str) -> Outcome<()> {
        self.call(json!({"do": "remove", "id": id})).map(drop)
    }
    fn mount(&self, id: &str, options: &[&str]) -> Outcome<PathBuf> {
        let mounted = self.call(json!({"do": "mount", "id": id, "options": options}));
        mounted.map(|path| path.as_str().unwrap().into())
    }
    fn umount(&self, id: &str) -> Outcome<()> {
        self.call(json!({"do": "umount", "id": id})).map(drop)
    }
    fn exists(&self, id: &str) -> bool {
        self.call(json!({"do": "exists", "id": id})).unwrap() == json!(true)
    }
    fn apply_from(&self, id: &str, source: &mut dyn Read) -> Outcome<i64> {
        let mut archive = Vec::new();
        source.read_to_end(&mut archive).unwrap();
        let file = Handed::over(&archive);
        self.call(json!({"do": "apply", "id": id, "archive": file.0})).map(|size| size.as_i64().unwrap())
    }
    fn diff(&self, id: &str, base: Option<&str>) -> Outcome<Vec<u8>> {
        let file = Handed::over(b"");
        self.call(json!({"do": "diff", "id": id, "base": base, "archive": file.0}))?;
        Ok(std::fs::read(&file.0).unwrap())
    }
    fn metadata(&self, id: &str) -> Outcome<Vec<(String, String)>> {
        self.call(json!({"do": "metadata", "id": id})).map(|value| pairs(&value))
    }
    fn usage(&self, id: &str) -> Outcome<(u64, u64)> {
        self.call(json!({"do": "usage", "id": id})).map(|value| serde_json::from_value(value).unwrap())
    }
    fn repair(&self, id: &str, parent: Option<&str>) -> Outcome<()> {
        self.call(json!({"do": "repair", "id": id, "parent": parent})).map(drop)
    }
    fn status(&self) -> Outcome<(String, String, String)> {
        self.call(json!({"do": "status"})).map(|value| serde_json::from_value(value).unwrap())
    }
    fn cleanup(&self) -> Outcome<()> {
        self.call(json!({"do": "cleanup"})).map(drop)
    }
}

/// The test that every binary with other processes has: started by [`Process`] it is that process.
pub fn another_process_answers() {
    if let Ok(kind) = std::env::var(MARK) {
        return match kind.as_str() {
            "rust" => serve(&Rust::default()),
            "C" => serve(&C::new()),
            other => panic!("no subject '{other}'"),
        };
    }
    for kind in ["rust", "C"] {
        let process = Process::start(kind);
        assert_ne!(process.pid(), std::process::id());
        let failure = process.mount("nobody", &[]).unwrap_err();
        assert_eq!(failure.errno, nix::errno::Errno::ENOTCONN as i32, "it has no driver: {failure:?}");
        assert!(process.run("a program that nobody wrote").unwrap_err().text.contains("nobody wrote"));
        assert!(process.is_alive());
        process.kill();
        assert!(!process.is_alive());
    }
}

fn serve(subject: &dyn Subject) {
    let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let mut answers = socket.try_clone().unwrap();
    for line in BufReader::new(socket).lines() {
        let Ok(line) = line else { return };
        let call: Value = serde_json::from_str(&line).unwrap();
        let answer = match obey(subject, &call, &answers) {
            Ok(value) => json!({"ok": value}),
            Err(failure) => json!({"errno": failure.errno, "text": failure.text}),
        };
        if answers.write_all(format!("{answer}\n").as_bytes()).is_err() {
            return;
        }
    }
}

fn obey(subject: &dyn Subject, call: &Value, answers: &UnixStream) -> Outcome<Value> {
    let word = |name: &str| call[name].as_str().unwrap_or_else(|| panic!("{call} has no '{name}'"));
    let words = |name: &str| -> Vec<&str> { call[name].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect() };
    let parent = || call["parent"].as_str();
    match word("do") {
        "init" => subject.init(word("name"), Path::new(word("root")), &words("options")).map(|()| json!(null)),
        "create" => {
            let storage = pairs(&call["storage"]);
            let storage: Vec<(&str, &str)> = storage.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            let access = if call["writable"] == json!(true) { Access::ReadWrite } else { Access::ReadOnly };
            subject.create(word("id"), parent(), access, &storage).map(|pairs| json!(pairs))
        }
        "remove" => subject.remove(word("id")).map(|()| json!(null)),
        "mount" => subject.mount(word("id"), &words("options")).map(|path| json!(path)),
        "umount" => subject.umount(word("id")).map(|()| json!(null)),
        "exists" => Ok(json!(subject.exists(word("id")))),
        "apply" => subject.apply_from(word("id"), &mut File::open(word("archive")).unwrap()).map(|size| json!(size)),
        HALFWAY => {
            let mut source = Halfway { file: File::open(word("archive")).unwrap(), answers };
            subject.apply_from(word("id"), &mut source).map(|size| json!(size))
        }
        "diff" => {
            let bytes = subject.diff(word("id"), call["base"].as_str())?;
            std::fs::write(word("archive"), bytes).unwrap();
            Ok(json!(null))
        }
        "metadata" => subject.metadata(word("id")).map(|pairs| json!(pairs)),
        "usage" => subject.usage(word("id")).map(|usage| json!(usage)),
        "repair" => subject.repair(word("id"), parent()).map(|()| json!(null)),
        "status" => subject.status().map(|status| json!(status)),
        "cleanup" => subject.cleanup().map(|()| json!(null)),
        "run" => programs::run(word("program"), subject).map(|()| json!(null)),
        other => panic!("no call '{other}'"),
    }
}

/// A source that tells when everything was taken from it, and then gives nothing more and no end.
struct Halfway<'a> {
    file: File,
    answers: &'a UnixStream,
}

impl Read for Halfway<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read(buffer)?;
        if n == 0 {
            self.answers.write_all(format!("{}\n", json!({"ok": HALFWAY})).as_bytes())?;
            loop {
                std::thread::park();
            }
        }
        Ok(n)
    }
}
