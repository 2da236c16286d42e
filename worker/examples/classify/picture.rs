//! Pictures for pages: one as bytes of a bitmap, one as a `data:` URL.

use std::collections::BTreeMap;

use crate::model::{Model, SPECIES};

const WIDTH: usize = 128;
const HEIGHT: usize = 96;
/// Blue, green and red of each species.
const COLOURS: [[u8; 3]; 3] = [[0xb4, 0x77, 0x1f], [0x2c, 0xa0, 0x2c], [0x28, 0x27, 0xd6]];

/// What the model makes of petals 0 to 7 cm long (to the right) and 0 to 3 cm wide (upwards), as a
/// bitmap; the sepals are of middling size. The less sure it is, the paler.
pub(crate) fn draw(model: &Model) -> Vec<u8> {
    let size = 54 + 3 * WIDTH * HEIGHT;
    let mut bytes = Vec::with_capacity(size);
    bytes.extend(b"BM");
    // The file's size, nothing, where pixels begin; the size of what follows, width, height; …
    for number in [size, 0, 54, 40, WIDTH, HEIGHT] {
        bytes.extend((number as u32).to_le_bytes());
    }
    // … one plane, 24 bits a pixel, and nothing compressed or told further.
    bytes.extend([1, 0, 24, 0]);
    bytes.resize(54, 0);
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            let across = |at: usize, of: usize, cm: f64| at as f64 / of as f64 * cm;
            let flower = [5.8, 3.0, across(x, WIDTH, 7.0), across(y, HEIGHT, 3.0)];
            let (species, sureness) = model.classify(&flower);
            let pale = |part: u8| 255.0 - (255.0 - f64::from(part)) * sureness;
            bytes.extend(COLOURS[species].map(|part| pale(part) as u8));
        }
    }
    bytes
}

/// One bar, cut as the species share it, as the URL of an SVG image.
pub(crate) fn shares(counts: &BTreeMap<String, usize>) -> String {
    let total: usize = counts.values().sum();
    let mut parts = String::new();
    let mut x = 0.0;
    for (name, [blue, green, red]) in SPECIES.into_iter().zip(COLOURS) {
        let count = counts.get(name).copied().unwrap_or_default();
        let width = count as f64 / total.max(1) as f64 * 300.0;
        parts.push_str(&format!(
            "<rect x='{x:.1}' width='{width:.1}' height='40' fill='rgb({red},{green},{blue})'>\
             <title>{name}: {count}</title></rect>"
        ));
        x += width;
    }
    let svg =
        format!("<svg xmlns='http://www.w3.org/2000/svg' width='300' height='40'>{parts}</svg>");
    format!("data:image/svg+xml,{}", svg.replace('#', "%23"))
}
