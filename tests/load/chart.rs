//! Drawings as SVG, small enough to be made by hand: lines over seconds, and bars.

use crate::timeline::Mark;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 240.0;
/// Room for what is written beside, above and below.
const LEFT: f64 = 70.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 22.0;
/// Parts of the vertical axis.
const STEPS: u32 = 4;

/// More marks than these have their names only where one points at them.
const NAMED: usize = 30;

/// Lines over the seconds of a run.
pub(crate) struct Chart<'a> {
    /// How a value is written.
    pub(crate) unit: fn(f64) -> String,
    pub(crate) lines: Vec<Line>,
    pub(crate) marks: &'a [Mark],
}

/// One line.
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) class: &'static str,
    /// Seconds and values.
    pub(crate) points: Vec<(f64, f64)>,
}

impl Chart<'_> {
    /// The drawing; nothing when there is nothing to be seen.
    pub(crate) fn draw(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        if points().next().is_none() {
            return String::new();
        }
        let last = points().fold(1.0, |last: f64, (second, _)| last.max(*second));
        let most = points().fold(1.0, |most: f64, (_, value)| most.max(*value));
        let x = |second: f64| LEFT + second / last * (WIDTH - LEFT);
        let y = |value: f64| TOP + (1.0 - value / most) * (HEIGHT - TOP - BOTTOM);
        let mut svg = String::new();
        for step in 0..=STEPS {
            let value = most * f64::from(step) / f64::from(STEPS);
            svg += &rule(y(value), &(self.unit)(value));
        }
        for step in 0..=STEPS {
            let second = last * f64::from(step) / f64::from(STEPS);
            svg += &label(x(second), HEIGHT - 4.0, "end", "", &format!("{second:.0} s"));
        }
        for (i, line) in self.lines.iter().enumerate() {
            let points: Vec<_> =
                line.points.iter().map(|(s, v)| format!("{:.1},{:.1}", x(*s), y(*v))).collect();
            svg +=
                &format!("<polyline class=\"{}\" points=\"{}\"/>\n", line.class, points.join(" "));
            svg += &label(LEFT + 120.0 * i as f64, 12.0, "start", line.class, line.name);
        }
        for mark in self.marks {
            let at = x((mark.at_ms as f64 / 1000.0).clamp(0.0, last));
            svg += &format!(
                "<g class=\"mark\"><line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{:.1}\"/>{}</g>\n",
                HEIGHT - BOTTOM,
                match self.marks.len() {
                    0..=NAMED => label(at + 3.0, TOP + 10.0, "start", "", &mark.what),
                    _ => format!("<title>{}</title>", escape(&mark.what)),
                }
            );
        }
        whole(&svg)
    }
}

/// A bar for each count, with what it is of; nothing when there are none.
pub(crate) fn bars(counts: &[(String, u64)]) -> String {
    let Some(most) = counts.iter().map(|(_, count)| *count).max() else { return String::new() };
    let most = most.max(1) as f64;
    let wide = (WIDTH - LEFT) / counts.len() as f64;
    let tall = HEIGHT - TOP - BOTTOM;
    let mut svg = rule(TOP, &format!("{most:.0}")) + &rule(TOP + tall, "0");
    for (i, (name, count)) in counts.iter().enumerate() {
        let (x, height) = (LEFT + wide * i as f64, *count as f64 / most * tall);
        svg += &format!(
            "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\">\
             <title>from {}: {count}</title></rect>\n",
            TOP + tall - height,
            wide * 0.9,
            escape(name)
        );
        // As many names as there is room for.
        if i % counts.len().div_ceil(12) == 0 {
            svg += &label(x, HEIGHT - 4.0, "start", "", name);
        }
    }
    whole(&svg)
}

/// A text that is to stand in a page.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn whole(content: &str) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n{content}</svg>")
}

fn rule(y: f64, text: &str) -> String {
    format!(
        "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>{}\n",
        label(LEFT - 6.0, y + 4.0, "end", "", text)
    )
}

fn label(x: f64, y: f64, anchor: &str, class: &str, text: &str) -> String {
    format!(
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
        escape(text)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_ends_at_the_last_second_and_a_mark_stands_at_its_time() {
        let marks = [Mark { at_ms: 1000, what: "kill <worker>".to_owned() }];
        let lines = vec![Line { name: "p50", class: "one", points: vec![(0.0, 0.0), (2.0, 8.0)] }];
        let svg = Chart { unit: |value| format!("{value}"), lines, marks: &marks }.draw();
        assert!(svg.contains("points=\"70.0,218.0 900.0,20.0\""), "{svg}");
        assert!(svg.contains("<line x1=\"485.0\" x2=\"485.0\""), "{svg}");
        assert!(svg.contains("kill &lt;worker&gt;"), "{svg}");
    }

    #[test]
    fn the_tallest_bar_is_as_tall_as_the_drawing() {
        let svg = bars(&[("1 us".to_owned(), 1), ("2 us".to_owned(), 2)]);
        assert!(svg.contains("height=\"198.0\"") && svg.contains("height=\"99.0\""), "{svg}");
    }
}
