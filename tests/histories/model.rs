//! What a family of layers means: a base, and two that may be stacked upon it. A call is possible in a state or it is not, and
//! leads to another one.

use nix::errno::Errno;

/// Which of a family: 0 is the base.
pub type Member = usize;
pub const MEMBERS: usize = 3;

/// What a thread asks for.
#[derive(Clone, Debug)]
pub enum Call {
    /// Read-only, without a parent.
    CreateBase,
    /// Read-write, upon the base or alone.
    Create {
        member: Member,
        upon_base: bool,
    },
    /// Unpacks one file of this number.
    Fill {
        member: Member,
        file: u32,
    },
    /// Unpacks an archive that ends in the middle.
    Break {
        member: Member,
    },
    Mount {
        member: Member,
    },
    Umount {
        member: Member,
    },
    Remove {
        member: Member,
    },
    Exists {
        member: Member,
    },
    Lowers {
        member: Member,
    },
    Usage {
        member: Member,
    },
    Export {
        member: Member,
    },
}

impl Call {
    /// Whether it leaves every state as it is, with this answer.
    pub fn only_asks(&self, answer: &Answer) -> bool {
        match self {
            Call::Exists { .. } | Call::Lowers { .. } | Call::Usage { .. } | Call::Export { .. } => true,
            Call::Break { .. } => *answer != Answer::Refused(Errno::EBADMSG as i32),
            _ => matches!(answer, Answer::Refused(_)),
        }
    }
}

/// What it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    Refused(i32),
    Exists(bool),
    /// Whether it has layers below.
    Lowers(bool),
    /// The files that it adds to its parent.
    Files(Vec<u32>),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Layer {
    /// Which creation made it: its id may have been another layer's before.
    born: u32,
    /// The creation that made its parent.
    parent: Option<u32>,
    files: Vec<u32>,
    pub is_mounted: bool,
    /// An unpacking did not finish.
    pub is_broken: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct State(pub [Option<Layer>; MEMBERS]);

impl State {
    /// Whether the layer has what it needs from below.
    pub fn is_usable(&self, member: Member) -> bool {
        let Some(layer) = &self.0[member] else { return false };
        let parent = layer.parent.map(|born| self.0[0].as_ref().is_some_and(|base| base.born == born && !base.is_broken));
        !layer.is_broken && parent != Some(false)
    }

    /// The state after the call, the `number`th of its history, was answered so; `None` where it cannot be.
    pub fn after(&self, number: u32, call: &Call, answer: &Answer) -> Option<State> {
        match call {
            Call::CreateBase => self.create(number, 0, false, answer),
            Call::Create { member, upon_base } => self.create(number, *member, *upon_base, answer),
            Call::Fill { member, file } => self.fill(*member, Some(*file), answer),
            Call::Break { member } => self.fill(*member, None, answer),
            Call::Mount { member } => self.mount(*member, answer),
            Call::Umount { member } => (*answer == Answer::Done).then(|| self.with_mount(*member, false)),
            Call::Remove { member } => (*answer == Answer::Done).then(|| {
                let mut next = self.clone();
                next.0[*member] = None;
                next
            }),
            Call::Exists { member } => self.if_so(*answer == Answer::Exists(self.0[*member].is_some())),
            Call::Lowers { member } => self.if_so(match &self.0[*member] {
                None => refused(answer, Errno::ENOENT),
                Some(layer) => *answer == Answer::Lowers(layer.parent.is_some()),
            }),
            Call::Usage { member } => self.if_so(match &self.0[*member] {
                None => refused(answer, Errno::ENOENT),
                Some(_) => *answer == Answer::Done,
            }),
            Call::Export { member } => self.if_so(match &self.0[*member] {
                None => refused(answer, Errno::ENOENT),
                Some(layer) if layer.is_broken => refused(answer, Errno::EUCLEAN),
                // Its own directory says all without those below, unless something has to be compared with them.
                Some(_) if !self.is_usable(*member) && refused(answer, Errno::EUCLEAN) => true,
                Some(layer) => *answer == Answer::Files(layer.files.clone()),
            }),
        }
    }

    /// The same with nothing mounted.
    pub fn unmounted(&self) -> State {
        (0..MEMBERS).fold(self.clone(), |state, member| state.with_mount(member, false))
    }

    fn if_so(&self, possible: bool) -> Option<State> {
        possible.then(|| self.clone())
    }

    fn create(&self, number: u32, member: Member, upon_base: bool, answer: &Answer) -> Option<State> {
        let base = self.0[0].as_ref().filter(|_| upon_base);
        let taken = self.0[member].is_some();
        let missing = upon_base && base.is_none();
        let broken = base.is_some_and(|base| base.is_broken);
        if taken || missing || broken {
            // Whichever it finds first.
            let why = [(taken, Errno::EEXIST), (missing, Errno::ENOENT), (broken, Errno::EUCLEAN)];
            return self.if_so(why.iter().any(|(so, errno)| *so && refused(answer, *errno)));
        }
        let mut next = self.clone();
        let layer = Layer { born: number, parent: base.map(|base| base.born), ..Layer::default() };
        next.0[member] = Some(layer);
        (*answer == Answer::Done).then_some(next)
    }

    fn fill(&self, member: Member, file: Option<u32>, answer: &Answer) -> Option<State> {
        let Some(layer) = &self.0[member] else { return self.if_so(refused(answer, Errno::ENOENT)) };
        if layer.is_broken {
            return self.if_so(refused(answer, Errno::EUCLEAN));
        }
        let mut next = self.clone();
        let filled = next.0[member].as_mut()?;
        match file {
            Some(file) => filled.files.push(file),
            // Of a layer that was empty and not mounted, nothing is left.
            None => filled.is_broken = !layer.files.is_empty() || layer.is_mounted,
        }
        filled.files.sort_unstable();
        let expected = if file.is_some() { *answer == Answer::Done } else { refused(answer, Errno::EBADMSG) };
        expected.then_some(next)
    }

    fn mount(&self, member: Member, answer: &Answer) -> Option<State> {
        match &self.0[member] {
            None => self.if_so(refused(answer, Errno::ENOENT)),
            Some(layer) if layer.is_mounted && *answer == Answer::Done => Some(self.clone()),
            Some(_) if !self.is_usable(member) => self.if_so(refused(answer, Errno::EUCLEAN)),
            Some(_) => (*answer == Answer::Done).then(|| self.with_mount(member, true)),
        }
    }

    fn with_mount(&self, member: Member, is_mounted: bool) -> State {
        let mut next = self.clone();
        if let Some(layer) = &mut next.0[member] {
            layer.is_mounted = is_mounted;
        }
        next
    }
}

fn refused(answer: &Answer, errno: Errno) -> bool {
    *answer == Answer::Refused(errno as i32)
}
