//! Container image layers and root filesystems on disk: the overlay2 and devicemapper graph drivers.
//!
//! Read on in this order: [`driver`] (what a driver does), `graph` (choosing and using one), `overlay` (one driver).

pub mod driver;
pub mod error;
pub mod id;
pub mod log;
pub mod mounts;
pub mod options;
mod sys;
pub mod tree;
