//! The one error type: what failed, on what, why, and what to do about it.
//!
//! An [`Error`] is opaque: callers ask it for its [`Kind`], its errno and its text. A failed system call carries its own
//! name and arguments; each layer above adds one clause in front with [`Error::context`]; advice goes behind it with
//! [`Error::hint`]. When undoing half-done work fails as well, [`Error::and_also`] keeps both causes.

use std::fmt;

/// The result of everything fallible in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The error numbers that code above `sys` tells apart: `asm-generic/errno-base.h` and `errno.h`, the same on every architecture
/// this library is built for.
#[allow(missing_docs)] // errno(3) describes them
pub mod errno {
    pub const EPERM: i32 = 1;
    pub const ENOENT: i32 = 2;
    pub const EINTR: i32 = 4;
    pub const EIO: i32 = 5;
    pub const ENXIO: i32 = 6;
    pub const EAGAIN: i32 = 11;
    pub const ENOMEM: i32 = 12;
    pub const EACCES: i32 = 13;
    pub const EBUSY: i32 = 16;
    pub const EEXIST: i32 = 17;
    pub const EXDEV: i32 = 18;
    pub const ENODEV: i32 = 19;
    pub const ENOTDIR: i32 = 20;
    pub const EISDIR: i32 = 21;
    pub const EINVAL: i32 = 22;
    pub const EFBIG: i32 = 27;
    pub const ENOSPC: i32 = 28;
    pub const EROFS: i32 = 30;
    pub const ERANGE: i32 = 34;
    pub const ENAMETOOLONG: i32 = 36;
    pub const ENOTEMPTY: i32 = 39;
    pub const ELOOP: i32 = 40;
    pub const ENODATA: i32 = 61;
    pub const EBADMSG: i32 = 74;
    pub const EUCLEAN: i32 = 117;
    pub const EDQUOT: i32 = 122;
    pub const ECANCELED: i32 = 125;
}

/// What sort of failure it is; decides the errno where no system call gave one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Kind {
    /// An argument, option or layer id that can never be right.
    #[error("invalid argument")]
    Invalid,
    /// The layer, device or file does not exist.
    #[error("not found")]
    NotFound,
    /// The layer exists and must not be overwritten.
    #[error("already exists")]
    Exists,
    /// Someone still uses it.
    #[error("busy")]
    Busy,
    /// No driver is initialised.
    #[error("not initialised")]
    NotInitialised,
    /// The kernel, the filesystem or the driver cannot do it.
    #[error("not supported")]
    Unsupported,
    /// No space, or over the quota.
    #[error("no space")]
    NoSpace,
    /// What is on disk is not what this library or the C module would have written.
    #[error("corrupt store")]
    Corrupt,
    /// The layer archive is malformed or hostile.
    #[error("bad archive")]
    Archive,
    /// A documented bound was exceeded.
    #[error("limit exceeded")]
    Limit,
    /// The caller asked for an end before its time.
    #[error("cancelled")]
    Cancelled,
    /// A system call failed; the errno says why.
    #[error("system call failed")]
    System,
    /// A defect of this library (a caught panic).
    #[error("internal error")]
    Internal,
}

impl Kind {
    /// The errno of a failure that no system call reported. Numbers: `asm-generic/errno-base.h` and `errno.h`, the same on
    /// every architecture this library is built for.
    const fn errno(self) -> i32 {
        match self {
            Kind::Invalid => 22,                // EINVAL
            Kind::NotFound => 2,                // ENOENT
            Kind::Exists => 17,                 // EEXIST
            Kind::Busy => 16,                   // EBUSY
            Kind::NotInitialised => 107,        // ENOTCONN
            Kind::Unsupported => 95,            // EOPNOTSUPP
            Kind::NoSpace => 28,                // ENOSPC
            Kind::Corrupt => 117,               // EUCLEAN
            Kind::Archive => 74,                // EBADMSG
            Kind::Limit => 7,                   // E2BIG
            Kind::Cancelled => 125,             // ECANCELED
            Kind::System | Kind::Internal => 5, // EIO
        }
    }

    /// The kind of a failed system call.
    const fn of_errno(errno: i32) -> Kind {
        match errno {
            2 => Kind::NotFound,
            16 => Kind::Busy,
            17 => Kind::Exists,
            28 | 122 => Kind::NoSpace,    // ENOSPC, EDQUOT
            38 | 95 => Kind::Unsupported, // ENOSYS, EOPNOTSUPP
            _ => Kind::System,
        }
    }
}

/// A failure with its causes. See the [module](self) for how its text is put together.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    errno: i32,
    context: Vec<String>,
    what: String,
    hint: Option<String>,
    user: Option<String>,
    also: Vec<Error>,
}

impl Error {
    /// A failure found by this library itself.
    #[must_use]
    pub fn new(kind: Kind, what: impl Into<String>) -> Error {
        Error::build(kind, kind.errno(), what.into())
    }

    /// A failed system call: `call` is its name with the arguments that matter.
    #[must_use]
    pub fn sys(call: impl fmt::Display, errno: i32) -> Error {
        let why = std::io::Error::from_raw_os_error(errno);
        Error::build(Kind::of_errno(errno), errno, format!("{call}: {why}"))
    }

    /// A failed call of the standard library, which may have found the cause itself: `EIO` then, and its text.
    #[must_use]
    pub fn io(call: impl fmt::Display, error: &std::io::Error) -> Error {
        match error.raw_os_error() {
            Some(errno) => Error::sys(call, errno),
            None => Error::sys(call, errno::EIO).context(error.to_string()),
        }
    }

    fn build(kind: Kind, errno: i32, what: String) -> Error {
        Error(Box::new(Inner { kind, errno, context: Vec::new(), what, hint: None, user: None, also: Vec::new() }))
    }

    /// Says what was being done, in front of what is already said.
    #[must_use]
    pub fn context(mut self, doing: impl Into<String>) -> Error {
        self.0.context.push(doing.into());
        self
    }

    /// Says what the caller can do about it, behind the cause, and behind advice that was given before.
    #[must_use]
    pub fn hint(mut self, advice: impl Into<String>) -> Error {
        let advice = advice.into();
        self.0.hint = Some(match self.0.hint.take() {
            Some(before) => format!("{before}; {advice}"),
            None => advice,
        });
        self
    }

    /// Attaches the exact sentence that the user of the daemon is to read; it becomes [`Error::message`].
    #[must_use]
    pub fn user(mut self, sentence: impl Into<String>) -> Error {
        self.0.user = Some(sentence.into());
        self
    }

    /// Attaches a second failure, met while cleaning up after this one.
    #[must_use]
    pub fn and_also(mut self, other: Error) -> Error {
        self.0.also.push(other);
        self
    }

    /// Replaces kind and errno where the caller knows better than the system call.
    #[must_use]
    pub fn with_kind(mut self, kind: Kind) -> Error {
        self.0.kind = kind;
        self.0.errno = kind.errno();
        self
    }

    /// The sort of failure.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The errno: of the system call that failed, else the one of the kind.
    #[must_use]
    pub fn errno(&self) -> i32 {
        self.0.errno
    }

    /// The sentence for the daemon's user, if this failure has one.
    #[must_use]
    pub fn user_message(&self) -> Option<&str> {
        self.0.user.as_deref()
    }

    /// The text a caller should show: the sentence for the user if there is one, else everything known.
    #[must_use]
    pub fn message(&self) -> String {
        self.0.user.clone().unwrap_or_else(|| self.to_string())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for clause in self.0.context.iter().rev() {
            write!(f, "{clause}: ")?;
        }
        f.write_str(&self.0.what)?;
        if let Some(hint) = &self.0.hint {
            write!(f, " ({hint})")?;
        }
        for other in &self.0.also {
            write!(f, "; then, cleaning up: {other}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} (errno {}): {self}", self.0.kind, self.0.errno)
    }
}

impl std::error::Error for Error {}

/// Adds context to the error of a result without building the text on success.
pub trait Context<T> {
    /// See [`Error::context`].
    fn context<S: Into<String>>(self, doing: impl FnOnce() -> S) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context<S: Into<String>>(self, doing: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|e| e.context(doing()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_reads_from_the_outside_in_and_ends_with_the_advice() {
        let e = Error::sys("mount overlay on 'x/merged'", 1).hint("run as root").context("mount layer x");
        assert_eq!(
            e.to_string(),
            "mount layer x: mount overlay on 'x/merged': Operation not permitted (os error 1) (run as root)"
        );
        assert_eq!((e.kind(), e.errno()), (Kind::System, 1));
        let e = Error::new(Kind::NoSpace, "full").hint("make room").hint("try again");
        assert_eq!(e.to_string(), "full (make room; try again)");
    }

    #[test]
    fn a_sentence_for_the_user_hides_nothing_from_the_log() {
        let e = Error::new(Kind::Invalid, "size=9").user("Illegal storage quota size 9, 4096 at least");
        assert_eq!(e.message(), "Illegal storage quota size 9, 4096 at least");
        assert_eq!(e.to_string(), "size=9");
    }

    #[test]
    fn a_failed_rollback_keeps_both_causes() {
        let e = Error::sys("mkdirat 'a'", 28).and_also(Error::sys("unlinkat 'b'", 5));
        assert_eq!(e.kind(), Kind::NoSpace);
        assert!(e.to_string().contains("mkdirat 'a'") && e.to_string().contains("cleaning up: unlinkat 'b'"));
    }
}
