//! What the tests of random input share.

use std::sync::LazyLock;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::FileFailurePersistence;
use single_state_proto::link::Side;

/// So many cases, and those that have failed before.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    let persistence = FileFailurePersistence::WithSource("regressions");
    ProptestConfig { cases, failure_persistence: Some(Box::new(persistence)), ..Default::default() }
}

/// Either end of a link.
pub(crate) fn side() -> impl Strategy<Value = Side> {
    select(vec![Side::Gateway, Side::Worker])
}

/// Lengths in which a stream of bytes arrives.
pub(crate) fn pieces() -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![1..20_usize, 1..5000_usize, Just(200_000)], 1..8)
}

/// The body of a message, different for each number.
pub(crate) fn body(number: u64, length: usize) -> Bytes {
    static BYTES: LazyLock<Bytes> =
        LazyLock::new(|| (0..500_000_u32).map(|i| (i % 251) as u8).collect());
    let from = (number % 251) as usize;
    BYTES.slice(from..from + length)
}
