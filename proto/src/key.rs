//! Link keys: how the two ends of a link show each other that they know the same secret without
//! saying it. Pure: keys and nonces are arguments. Authenticates the ends, encrypts nothing.
//!
//! A proof is an HMAC-SHA256 over who proves, the nonces of both and what the link is for. Each end
//! contributes a nonce of its own, so a proof that was recorded is of no use on another link; the
//! prover's side is part of it, so a proof cannot be sent back to who made it.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::id::WorkerIndex;
use crate::link::Side;

/// Makes a MAC that the same key gave for something else useless here.
const PURPOSE: &[u8] = b"single-state link proof 1\0";

type HmacSha256 = Hmac<Sha256>;

/// Random bytes that an end of a link draws anew for each link. No secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonce(pub [u8; Self::LEN]);

impl Nonce {
    /// Bytes of a nonce.
    pub const LEN: usize = 32;
}

/// What shows that its sender has a link key. Compare it only to verify it: `==` is for tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof(pub [u8; Self::LEN]);

impl Proof {
    /// Bytes of a proof.
    pub const LEN: usize = 32;
}

/// The keys of a cluster's links: the first proves, all verify. To rotate, add the new key last
/// everywhere, then move it first everywhere, then remove the old one.
#[derive(Clone)]
pub struct LinkKeys {
    first: HmacSha256,
    others: Vec<HmacSha256>,
}

/// Why a text is no list of keys. Never repeats what may be a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKeys {
    /// No line holds one.
    #[error("it holds no key; write one key of 64 hex digits on each line")]
    Empty,
    /// This line, counted from 1, is none.
    #[error("line {0} is no key of 64 hex digits")]
    Line(usize),
}

/// What a proof speaks of: one link of one cluster to one worker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim<'a> {
    pub(crate) gateway: Nonce,
    pub(crate) worker: Nonce,
    pub(crate) index: WorkerIndex,
    pub(crate) cluster: &'a str,
}

impl LinkKeys {
    /// Reads one key a line; empty lines and lines that begin with `#` are passed over.
    pub fn parse(text: &str) -> Result<Self, InvalidKeys> {
        let lines = text.lines().map(str::trim).enumerate();
        let mut keys = lines
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
            .map(|(i, line)| key(line).ok_or(InvalidKeys::Line(i + 1)));
        let first = keys.next().ok_or(InvalidKeys::Empty)??;
        Ok(Self { first, others: keys.collect::<Result<_, _>>()? })
    }

    pub(crate) fn prove(&self, prover: Side, claim: Claim<'_>) -> Proof {
        Proof(mac(&self.first, prover, claim).finalize().into_bytes().into())
    }

    /// Whether one of the keys made this proof; takes the same time for each wrong one.
    pub(crate) fn verify(&self, prover: Side, claim: Claim<'_>, proof: &Proof) -> bool {
        let mut keys = std::iter::once(&self.first).chain(&self.others);
        keys.any(|key| mac(key, prover, claim).verify_slice(&proof.0).is_ok())
    }
}

impl fmt::Debug for LinkKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkKeys({} secret keys)", 1 + self.others.len())
    }
}

fn key(line: &str) -> Option<HmacSha256> {
    // from_str_radix alone would take a sign for a digit.
    if line.len() != 64 || !line.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&line[2 * i..2 * i + 2], 16).ok()?;
    }
    HmacSha256::new_from_slice(&bytes).ok()
}

/// All fields but the last have one length, so no two claims give the same bytes.
fn mac(key: &HmacSha256, prover: Side, claim: Claim<'_>) -> HmacSha256 {
    let side: u8 = match prover {
        Side::Gateway => 1,
        Side::Worker => 2,
    };
    key.clone()
        .chain_update(PURPOSE)
        .chain_update([side])
        .chain_update(claim.gateway.0)
        .chain_update(claim.worker.0)
        .chain_update(claim.index.0.to_be_bytes())
        .chain_update(claim.cluster)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLAIM: Claim<'_> = Claim {
        gateway: Nonce([1; 32]),
        worker: Nonce([2; 32]),
        index: WorkerIndex(3),
        cluster: "test",
    };

    fn keys(digits: &[char]) -> LinkKeys {
        let lines: Vec<_> = digits.iter().map(|digit| digit.to_string().repeat(64)).collect();
        LinkKeys::parse(&lines.join("\n")).unwrap()
    }

    #[test]
    fn the_first_key_proves_and_all_verify() {
        let proof = keys(&['a', 'b']).prove(Side::Gateway, CLAIM);
        assert_eq!(proof, keys(&['a']).prove(Side::Gateway, CLAIM));
        assert!(keys(&['c', 'b', 'a']).verify(Side::Gateway, CLAIM, &proof));
        assert!(!keys(&['c', 'b']).verify(Side::Gateway, CLAIM, &proof));
    }

    #[test]
    fn a_proof_counts_for_one_side_of_one_link_of_one_cluster_to_one_worker() {
        let keys = keys(&['a']);
        let proof = keys.prove(Side::Worker, CLAIM);
        assert!(keys.verify(Side::Worker, CLAIM, &proof));
        assert!(!keys.verify(Side::Gateway, CLAIM, &proof));
        for other in [
            Claim { gateway: Nonce([9; 32]), ..CLAIM },
            Claim { worker: Nonce([9; 32]), ..CLAIM },
            Claim { gateway: CLAIM.worker, worker: CLAIM.gateway, ..CLAIM },
            Claim { index: WorkerIndex(9), ..CLAIM },
            Claim { cluster: "test2", ..CLAIM },
            Claim { cluster: "", ..CLAIM },
        ] {
            assert!(!keys.verify(Side::Worker, other, &proof), "{other:?}");
        }
        for byte in 0..Proof::LEN {
            let mut forged = proof;
            forged.0[byte] ^= 1;
            assert!(!keys.verify(Side::Worker, CLAIM, &forged), "byte {byte} does not count");
        }
    }

    #[test]
    fn a_file_of_keys_may_have_comments_and_names_the_line_of_a_mistake() {
        let key = "0123456789abcdefABCDEF0123456789".repeat(2);
        assert!(LinkKeys::parse(&format!("# first proves\r\n {key} \r\n\n{key}\n")).is_ok());
        for none in ["", "\n\n", "# none\n"] {
            assert_eq!(LinkKeys::parse(none).unwrap_err(), InvalidKeys::Empty);
        }
        let signs = "+1".repeat(32);
        for bad in ["secret", &key[1..], &signs, &"ä".repeat(32), &format!("{key}0")] {
            let error = LinkKeys::parse(&format!("{key}\n{bad}")).unwrap_err();
            assert_eq!(error.to_string(), "line 2 is no key of 64 hex digits");
        }
    }

    #[test]
    fn keys_are_not_printed() {
        assert_eq!(format!("{:?}", keys(&['a', 'b'])), "LinkKeys(2 secret keys)");
    }
}
