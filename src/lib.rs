//! Container image layers and root filesystems on disk: the overlay2 and devicemapper graph drivers.
//!
//! Read on in this order: [`driver`] (what a driver does), [`graph`] (choosing and using one), [`overlay`] (one driver). The C
//! interface is a thin skin over [`graph`]; its reference is `include/graphdriver.h`.
//!
//! ```text
//! C callers ─> capi ─> graph ─> driver (trait) <─ overlay, devmapper
//!                                                   │
//!  archive  export  quota  tree  mounts  backing  options  lease  locks  undo  worker  id  digest
//!                                                   │
//!                                                  sys
//!               error, log, cancel: used by all, use nothing
//! ```

pub mod archive;
mod backing;
pub mod cancel;
pub mod capi;
pub mod devmapper;
pub mod digest;
pub mod driver;
pub mod error;
pub mod export;
pub mod graph;
pub mod id;
pub mod lease;
pub mod locks;
pub mod log;
pub mod mounts;
pub mod options;
pub mod overlay;
pub mod quota;
mod room;
mod sys;
pub mod tree;
pub mod undo;
pub mod worker;
