//! A chart of two curves over time, each with a scale of its own.

use std::fmt::Write as _;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 360.0;
const MARGIN: f64 = 60.0;
const COLOURS: [&str; 2] = ["#1f77b4", "#d95f02"];

pub struct Curve {
    pub name: &'static str,
    /// Seconds, and the value from then on.
    pub points: Vec<(f64, f64)>,
}

/// The first curve's scale is on the left, the second one's on the right. Values hold until the next point.
pub fn chart(title: &str, curves: &[Curve; 2]) -> String {
    let end = curves.iter().flat_map(|curve| &curve.points).map(|point| point.0).fold(0.1, f64::max);
    let x = |seconds: f64| MARGIN + seconds / end * (WIDTH - 2.0 * MARGIN);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{MARGIN}\" y=\"24\" font-size=\"14\">{}</text>\n",
        escaped(title)
    );
    let bottom = HEIGHT - MARGIN;
    let axis = WIDTH - 2.0 * MARGIN;
    let _ = writeln!(svg, "<path d=\"M{MARGIN} {bottom}h{axis}\" stroke=\"black\"/>");
    for tick in 0..=5 {
        let seconds = end * f64::from(tick) / 5.0;
        let (at, below) = (x(seconds), bottom + 18.0);
        let _ = writeln!(svg, "<text x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\">{seconds:.1} s</text>");
    }
    for ((curve, colour), (side, anchor)) in
        curves.iter().zip(COLOURS).zip([(MARGIN - 6.0, "end"), (WIDTH - MARGIN + 6.0, "start")])
    {
        let top = curve.points.iter().map(|point| point.1).fold(1.0, f64::max);
        let y = |value: f64| bottom - value / top * (HEIGHT - 2.0 * MARGIN);
        for tick in 0..=4 {
            let value = top * f64::from(tick) / 4.0;
            let at = y(value) + 4.0;
            let _ = writeln!(
                svg,
                "<text x=\"{side}\" y=\"{at:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{value:.0}</text>"
            );
        }
        let name_at = MARGIN - 14.0;
        let _ = writeln!(
            svg,
            "<text x=\"{side}\" y=\"{name_at}\" text-anchor=\"{}\" fill=\"{colour}\">{}</text>",
            if anchor == "end" { "start" } else { "end" },
            escaped(curve.name)
        );
        let mut path = String::new();
        for (number, (seconds, value)) in curve.points.iter().enumerate() {
            let at = (x(*seconds), y(*value));
            let _ = if number == 0 {
                write!(path, "M{:.1} {:.1}", at.0, at.1)
            } else {
                write!(path, "H{:.1}V{:.1}", at.0, at.1)
            };
        }
        let _ = writeln!(svg, "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>");
    }
    svg.push_str("</svg>\n");
    svg
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_curve_fills_its_own_scale_and_steps_at_its_points() {
        let curve = |name, top| Curve { name, points: vec![(0.0, 0.0), (1.0, top)] };
        let svg = chart("a < b", &[curve("left", 4.0), curve("right", 1000.0)]);
        assert!(svg.contains("a &lt; b"), "{svg}");
        assert_eq!(svg.matches("d=\"M60.0 300.0H840.0V60.0\"").count(), 2, "{svg}");
        assert!(svg.contains(">4</text>") && svg.contains(">1000</text>"), "{svg}");
    }
}
