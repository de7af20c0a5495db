//! What is printed, and how: colours and progress on a terminal only, names from the store without what a terminal would obey.

use graphdriver::error::{Error, Result};
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::time::{Duration, Instant};

/// How stdout is written to.
pub struct Output {
    json: bool,
    colours: bool,
    /// The locale has characters to draw lines with.
    draws: bool,
}

/// What a text means.
#[derive(Clone, Copy)]
pub enum Tone {
    Good,
    Warning,
    Bad,
    Quiet,
}

impl Output {
    pub fn new(json: bool) -> Output {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let locale =
            ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find(|name| is_set(name)).and_then(|name| std::env::var(name).ok());
        let draws = locale.is_some_and(|locale| locale.to_ascii_uppercase().replace('-', "").ends_with("UTF8"));
        Output { json, colours: io::stdout().is_terminal() && !is_dumb && !is_set("NO_COLOR"), draws }
    }

    /// Tells something, in one of its two forms.
    pub fn tell(&self, document: &Value, text: &str) -> Result<()> {
        if self.json { self.print(&format!("{document:#}\n")) } else { self.print(text) }
    }

    /// The text in the colour of what it means.
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        if !self.colours || text.is_empty() {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Good => "32",
            Tone::Warning => "33",
            Tone::Bad => "1;31",
            Tone::Quiet => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// The branches of a tree: of a child, of the last one, and what continues them.
    pub fn branches(&self) -> [&'static str; 4] {
        if self.draws { ["├─ ", "└─ ", "│  ", "   "] } else { ["|- ", "`- ", "|  ", "   "] }
    }

    /// Whoever reads may have seen enough.
    fn print(&self, text: &str) -> Result<()> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(failed("write to stdout", &e)),
            _ => Ok(()),
        }
    }
}

/// Writes a line about what went wrong.
pub fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "graphdriver: {}", shown(text));
}

/// The library's error for what the standard library reports.
pub fn failed(call: &str, error: &io::Error) -> Error {
    Error::sys(call, error.raw_os_error().unwrap_or(graphdriver::error::errno::EIO))
}

/// A text that may have come from a container: control characters are escaped.
pub fn shown(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            let _ = write!(safe, "{}", character.escape_default());
        } else {
            safe.push(character);
        }
    }
    safe
}

/// The same of bytes: what is not UTF-8 is escaped as well.
pub fn shown_bytes(bytes: &[u8]) -> String {
    let chunks = bytes.utf8_chunks();
    chunks.map(|chunk| shown(chunk.valid()) + &chunk.invalid().escape_ascii().to_string()).collect()
}

/// A size in binary units.
pub fn size(bytes: u64) -> String {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >= 1 << shift {
            #[allow(clippy::cast_precision_loss)] // one decimal is shown
            return format!("{:.1} {unit}", bytes as f64 / (1_u64 << shift) as f64);
        }
    }
    format!("{bytes} B")
}

/// So many of these.
pub fn count(number: u64, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

/// A line on the terminal that says how far something is, and goes when it is done.
pub struct Progress {
    last: Option<Instant>,
    shown: bool,
}

impl Progress {
    pub fn new() -> Progress {
        Progress { last: io::stderr().is_terminal().then(Instant::now), shown: false }
    }

    /// Shows the line, unless one was shown a moment ago.
    pub fn tell(&mut self, text: impl FnOnce() -> String) {
        const MOMENT: Duration = Duration::from_millis(100);
        if let Some(last) = self.last.as_mut().filter(|last| last.elapsed() > MOMENT) {
            *last = Instant::now();
            self.shown = true;
            let _ = write!(io::stderr(), "\r\x1b[K{}", text());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_shown_moves_the_cursor() {
        assert_eq!(shown("a\x1b[2J\nb ä"), "a\\u{1b}[2J\\nb ä");
        assert_eq!(shown_bytes(b"a\xff\x07b"), "a\\xff\\u{7}b");
    }

    #[test]
    fn sizes_have_one_unit() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 << 29, "1.5 GiB"), (1 << 50, "1024.0 TiB")]
        {
            assert_eq!(size(bytes), text);
        }
    }
}
