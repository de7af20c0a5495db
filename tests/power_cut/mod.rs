//! The parts of the power-cut test.

pub mod disk;
pub mod log;
pub mod model;
