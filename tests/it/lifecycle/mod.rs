//! Edits and erasures: what readers are told, and that nothing remains.

mod changes;
mod model;
