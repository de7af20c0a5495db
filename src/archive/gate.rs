//! Before the target is changed for the first time, somebody may want to note that; the confined thread, which is about to change it,
//! cannot do that itself.

use crate::error::{Error, Kind, Result};
use crate::sys::confine;
use std::sync::mpsc::{Receiver, Sender, channel};

/// Held by the thread that changes the target.
pub(super) struct Gate {
    ask: Sender<()>,
    answer: Receiver<Result<()>>,
    is_open: bool,
}

/// Held by the one that notes it.
pub(super) struct Keeper {
    asked: Receiver<()>,
    answer: Sender<Result<()>>,
}

pub(super) fn gate() -> (Gate, Keeper) {
    let ((ask, asked), (give, answer)) = (channel(), channel());
    (Gate { ask, answer, is_open: false }, Keeper { asked, answer: give })
}

impl Gate {
    /// To be called before every change; waits for the keeper at the first one.
    pub(super) fn pass(&mut self) -> Result<()> {
        if !self.is_open {
            let gone = || Error::new(Kind::Internal, "the thread that notes changes is gone");
            self.ask.send(()).map_err(|_| gone())?;
            confine::waiting(|| self.answer.recv())?.map_err(|_| gone())??;
            self.is_open = true;
        }
        Ok(())
    }
}

impl Keeper {
    /// Waits for the first change, or for the end without one.
    pub(super) fn serve(self, before_change: &(dyn Fn() -> Result<()> + Sync)) -> Result<()> {
        if self.asked.recv().is_ok() {
            // Who asked may have been stopped meanwhile.
            let _ = self.answer.send(before_change());
        }
        Ok(())
    }
}
