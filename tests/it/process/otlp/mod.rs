//! Traces, as a collector receives them. These tests need the feature `otlp`.

#[cfg(feature = "otlp")]
mod exported;

#[cfg(not(feature = "otlp"))]
#[test]
fn traces_are_tested_only_with_the_feature_otlp() {
    use crate::support::needs::{self, not_tested};
    let why = "run `cargo test --locked --features otlp --test it otlp`";
    not_tested("traces", why, needs::OTLP);
}
