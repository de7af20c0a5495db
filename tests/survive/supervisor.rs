//! A process whose system calls wait for leave: a seccomp filter tells of each call before it is made, and the supervisor lets it
//! go on, lets it fail, holds it, or kills the process. The filter is the thread's that installs it and of all that it starts.

#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // fork, seccomp

use super::calls::{Call, numbers};
use serde_json::{Value, json};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const RECEIVE: libc::c_ulong = 0xc050_2100;
const SEND: libc::c_ulong = 0xc018_2101;
/// What a watched thread asks to be told apart from other calls: `unlinkat` with flags that no kernel knows.
const MARK: u64 = 0x7fff_0000;
const LARGEST: usize = 1 << 17;

/// What a process under supervision did.
pub enum Event {
    /// It waits for leave to make a call.
    Call(Call),
    /// A thread says that it has come to a point, and waits for leave to go on.
    Mark(Call),
    Told(Value),
    /// Nothing, for the time given.
    Idle,
    /// It is no more; whether it was killed.
    Gone {
        killed: bool,
    },
}

/// A child of this process.
pub struct Child {
    pid: libc::pid_t,
    socket: OwnedFd,
    listeners: Vec<(usize, OwnedFd)>,
    is_gone: bool,
}

/// What the child has of its supervisor.
pub struct Link(OwnedFd);

impl Child {
    /// Runs `body` in a child in the calling thread's mount namespace, which ends without destructors.
    pub fn start(body: impl FnOnce(&Link)) -> Child {
        let mut pair = [0; 2];
        let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
        assert_eq!(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) }, 0);
        let [ours, theirs] = pair.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        match unsafe { libc::fork() } {
            0 => {
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                drop(ours);
                let body = std::panic::AssertUnwindSafe(|| body(&Link(theirs)));
                let status = std::panic::catch_unwind(body).map_or(101, |()| 0);
                unsafe { libc::_exit(status) }
            }
            pid => {
                assert!(pid > 0);
                Child { pid, socket: ours, listeners: Vec::new(), is_gone: false }
            }
        }
    }

    pub fn pid(&self) -> libc::pid_t {
        self.pid
    }

    /// What happens next, within so many milliseconds.
    pub fn next(&mut self, patience: i32) -> Event {
        loop {
            let mut polled: Vec<libc::pollfd> = std::iter::once(&self.socket)
                .chain(self.listeners.iter().map(|(_, listener)| listener))
                .map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 })
                .collect();
            let ready = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, patience) };
            if ready == 0 {
                return Event::Idle;
            }
            let ready = |at: usize| polled[at].revents & libc::POLLIN != 0;
            // What was told comes before the calls that follow it.
            let is_told = ready(0) || (polled[0].revents & libc::POLLHUP != 0 && !(1..polled.len()).any(ready));
            if is_told {
                match self.message() {
                    None => return self.reap(),
                    Some(message) => match message.get("watch") {
                        None => return Event::Told(message),
                        Some(fd) => {
                            let who = usize::try_from(message["who"].as_u64().unwrap()).unwrap();
                            self.listeners.push((who, self.take(fd.as_i64().unwrap())));
                        }
                    },
                }
            } else if let Some(at) = (0..self.listeners.len()).find(|at| ready(at + 1)) {
                match self.receive(at) {
                    Some(call) if call.number == libc::SYS_unlinkat && call.arguments[2] == MARK => {
                        return Event::Mark(call);
                    }
                    Some(call) => return Event::Call(call),
                    None => {} // its thread is gone
                }
            } else if let Some(at) = (0..self.listeners.len()).find(|at| polled[at + 1].revents != 0) {
                self.listeners.remove(at); // all its threads have ended
            }
        }
    }

    fn receive(&self, at: usize) -> Option<Call> {
        let (who, listener) = &self.listeners[at];
        let mut told: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        let rc = unsafe { libc::ioctl(listener.as_raw_fd(), RECEIVE, &raw mut told) };
        let thread = libc::pid_t::try_from(told.pid).unwrap();
        let number = libc::c_long::from(told.data.nr);
        (rc == 0).then_some(Call { id: told.id, who: *who, thread, number, arguments: told.data.args })
    }

    fn answer(&self, call: &Call, error: i32, flags: u32) {
        let answer = libc::seccomp_notif_resp { id: call.id, val: 0, error: -error, flags };
        if let Some((_, listener)) = self.listeners.iter().find(|(who, _)| *who == call.who) {
            // A thread that was killed meanwhile waits for no answer.
            unsafe { libc::ioctl(listener.as_raw_fd(), SEND, &raw const answer) };
        }
    }

    /// Lets the call be made.
    pub fn go_on(&self, call: &Call) {
        self.answer(call, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32);
    }

    /// Lets the call fail without being made.
    pub fn fail(&self, call: &Call, errno: i32) {
        self.answer(call, errno, 0);
    }

    /// Whether all of its threads wait for something.
    pub fn is_still(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid)).unwrap();
        let call = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("syscall")).unwrap_or_default();
        tasks.filter_map(Result::ok).all(|task| !call(task).starts_with("running"))
    }

    pub fn kill(&self) {
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
    }

    /// Goes on without supervision until it tells something; `None` if it ends without.
    pub fn told(&mut self) -> Option<Value> {
        loop {
            match self.next(90_000) {
                Event::Call(call) | Event::Mark(call) => self.go_on(&call),
                Event::Told(value) => return Some(value),
                Event::Gone { .. } => return None,
                Event::Idle => panic!("process {} hangs", self.pid),
            }
        }
    }

    /// Waits for its end; whether it was killed.
    pub fn end(&mut self) -> bool {
        while !self.is_gone {
            match self.next(90_000) {
                Event::Call(call) | Event::Mark(call) => self.go_on(&call),
                Event::Told(_) => {}
                Event::Gone { killed } => return killed,
                Event::Idle => panic!("process {} hangs", self.pid),
            }
        }
        false
    }

    /// The listener of one of its threads.
    fn take(&self, fd: i64) -> OwnedFd {
        unsafe {
            let process = libc::syscall(libc::SYS_pidfd_open, self.pid, 0);
            assert!(process >= 0);
            let process = OwnedFd::from_raw_fd(process as i32);
            let listener = libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0);
            assert!(listener >= 0, "{}", std::io::Error::last_os_error());
            OwnedFd::from_raw_fd(listener as i32)
        }
    }

    fn message(&self) -> Option<Value> {
        receive(&self.socket).map(|bytes| serde_json::from_slice(&bytes).unwrap())
    }

    fn reap(&mut self) -> Event {
        let mut status = 0;
        assert_eq!(unsafe { libc::waitpid(self.pid, &raw mut status, 0) }, self.pid);
        self.is_gone = true;
        let killed = libc::WIFSIGNALED(status);
        assert!(killed || libc::WEXITSTATUS(status) == 0, "the child panicked; see its own text");
        Event::Gone { killed }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.is_gone {
            self.kill();
            let mut status = 0;
            unsafe { libc::waitpid(self.pid, &raw mut status, 0) };
        }
    }
}

fn receive(socket: &OwnedFd) -> Option<Vec<u8>> {
    let mut bytes = vec![0; LARGEST];
    let n = unsafe { libc::recv(socket.as_raw_fd(), bytes.as_mut_ptr().cast(), LARGEST, 0) };
    bytes.truncate(usize::try_from(n).unwrap_or(0));
    (!bytes.is_empty()).then_some(bytes)
}

impl Link {
    pub fn tell(&self, value: &Value) {
        let text = value.to_string();
        let n = unsafe { libc::send(self.0.as_raw_fd(), text.as_ptr().cast(), text.len(), libc::MSG_NOSIGNAL) };
        assert_eq!(usize::try_from(n), Ok(text.len()), "{}", std::io::Error::last_os_error());
    }

    /// From now on the calls of this thread, and of those that it starts, wait for leave; begins with a mark.
    pub fn watch(&self, who: usize) {
        let listener = listen();
        self.tell(&json!({"watch": listener.as_raw_fd(), "who": who}));
        mark();
    }
}

/// Comes to a point, and waits for leave to go on.
pub fn mark() {
    unsafe { libc::syscall(libc::SYS_unlinkat, -1, std::ptr::null::<u8>(), MARK) };
}

/// Installs the filter.
fn listen() -> OwnedFd {
    let op = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: u16::try_from(code).unwrap(), jt, jf, k };
    let ret = |action| op(libc::BPF_RET | libc::BPF_K, 0, 0, action);
    let mut program = vec![op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    for number in numbers() {
        program.push(op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, u32::try_from(number).unwrap()));
        program.push(ret(libc::SECCOMP_RET_USER_NOTIF));
    }
    program.push(ret(libc::SECCOMP_RET_ALLOW));
    let filter = libc::sock_fprog { len: u16::try_from(program.len()).unwrap(), filter: program.as_mut_ptr() };
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    let fd = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter) };
    assert!(fd >= 0, "seccomp: {}", std::io::Error::last_os_error());
    unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).unwrap()) }
}
