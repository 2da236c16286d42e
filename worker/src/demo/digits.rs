//! The handwritten digits that the model learns to read: what they are and whose, says
//! `data/README.md`. Loaded once, shared by all sessions of a worker.

/// Of a side of 8.
pub(crate) const PIXELS: usize = 64;
/// The digits 0 to 9.
pub(crate) const CLASSES: usize = 10;

/// One of so many is kept for the test, and never learned from.
const TEST_SHARE: usize = 5;
/// A black pixel.
const BLACK: f32 = 16.0;

/// An image and what it shows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Digit {
    /// Row by row, 0 is white and 1 black.
    pub(crate) pixels: [f32; PIXELS],
    /// 0 to 9.
    pub(crate) label: usize,
}

/// All images.
#[derive(Debug)]
pub(crate) struct Digits {
    /// To learn from.
    pub(crate) train: Vec<Digit>,
    /// To judge by.
    pub(crate) test: Vec<Digit>,
}

impl Digits {
    /// Reads what this program was built with.
    pub(crate) fn load() -> Self {
        let (mut train, mut test) = (Vec::new(), Vec::new());
        for (i, line) in include_str!("data/digits.txt").lines().enumerate() {
            let digit = Digit::read(line).expect("64 numerals of base 17, a blank and a label");
            if i % TEST_SHARE == 0 { test.push(digit) } else { train.push(digit) }
        }
        Self { train, test }
    }
}

impl Digit {
    fn read(line: &str) -> Option<Self> {
        let (image, label) = line.split_once(' ')?;
        let numerals: &[u8; PIXELS] = image.as_bytes().try_into().ok()?;
        let mut pixels = [0.0; PIXELS];
        for (pixel, numeral) in pixels.iter_mut().zip(numerals) {
            *pixel = f32::from(shade(*numeral)?) / BLACK;
        }
        let label = label.parse().ok().filter(|label| *label < CLASSES)?;
        Some(Self { pixels, label })
    }
}

/// A numeral of base 17.
fn shade(numeral: u8) -> Option<u8> {
    match numeral {
        b'0'..=b'9' => Some(numeral - b'0'),
        b'a'..=b'g' => Some(numeral - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_images_are_there_and_each_digit_is_shown_about_as_often() {
        let digits = Digits::load();
        assert_eq!((digits.train.len(), digits.test.len()), (1437, 360));
        for of in [&digits.train, &digits.test] {
            for label in 0..CLASSES {
                let share = of.iter().filter(|digit| digit.label == label).count() * 100 / of.len();
                assert!((7..=13).contains(&share), "{share} % show a {label}");
            }
        }
    }

    #[test]
    fn pixels_are_shares_of_black() {
        let image = format!("0g8{}", "0".repeat(61));
        let digit = Digit::read(&format!("{image} 7")).unwrap();
        assert_eq!((digit.pixels[..4].to_vec(), digit.label), (vec![0.0, 1.0, 0.5, 0.0], 7));
        for wrong in [format!("{image}0 7"), format!("{image} 10"), image, "0 7".to_owned()] {
            assert_eq!(Digit::read(&wrong), None, "{wrong}");
        }
    }
}
