//! SipHash-2-4 once more, written plainly from its paper (Aumasson and Bernstein, 2012), so that the
//! tests can tell which worker owns a session without asking the code that they test.

/// SipHash-2-4 of `data`, the 64-bit result as a number.
pub fn siphash24(key: &[u8; 16], data: &[u8]) -> u64 {
    let (k0, k1) = (word(&key[..8]), word(&key[8..]));
    let mut state = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];

    let mut words = data.chunks_exact(8);
    for bytes in &mut words {
        absorb(&mut state, word(bytes));
    }
    // The last word: what is left of the data, and the length's lowest byte on top.
    absorb(&mut state, word(words.remainder()) | (data.len() as u64) << 56);

    state[2] ^= 0xff;
    for _ in 0..4 {
        round(&mut state);
    }
    state[0] ^ state[1] ^ state[2] ^ state[3]
}

/// Up to eight bytes as a little-endian number.
fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

fn absorb(state: &mut [u64; 4], word: u64) {
    state[3] ^= word;
    round(state);
    round(state);
    state[0] ^= word;
}

fn round([v0, v1, v2, v3]: &mut [u64; 4]) {
    *v0 = v0.wrapping_add(*v1);
    *v2 = v2.wrapping_add(*v3);
    *v1 = v1.rotate_left(13) ^ *v0;
    *v3 = v3.rotate_left(16) ^ *v2;
    *v0 = v0.rotate_left(32);
    *v2 = v2.wrapping_add(*v1);
    *v0 = v0.wrapping_add(*v3);
    *v1 = v1.rotate_left(17) ^ *v2;
    *v3 = v3.rotate_left(21) ^ *v0;
    *v2 = v2.rotate_left(32);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_the_reference_value_of_the_paper() {
        let key: [u8; 16] = std::array::from_fn(|i| i as u8);
        let data: [u8; 15] = std::array::from_fn(|i| i as u8);
        assert_eq!(siphash24(&key, &data), 0xa129_ca61_49be_45e5);
    }

    #[test]
    fn it_agrees_with_the_vectors() {
        let vectors = include_str!("../vectors/siphash.txt");
        let lines = vectors.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        for line in lines {
            let fields: Vec<_> = line.split(' ').collect();
            let [key, id, attempt, hash] = fields[..] else { panic!("{line}") };
            let key = u128::from_str_radix(key, 16).unwrap().to_be_bytes();
            let mut data = id.as_bytes().to_vec();
            match attempt.parse().unwrap() {
                0 => {}
                attempt => data.push(attempt),
            }
            assert_eq!(format!("{:016x}", siphash24(&key, &data)), hash, "{line}");
        }
    }
}
