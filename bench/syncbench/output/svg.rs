//! Bar charts as inline SVG.

/// One bar: label, value in words, and where it begins, ends and its range, in the chart's own measure; no value, no bar.
pub struct Bar {
    /// Left of it.
    pub label: String,
    /// Right of it.
    pub text: String,
    /// Median, lowest, highest.
    pub values: Option<(f64, f64, f64)>,
    /// Set apart by colour.
    pub is_ours: bool,
}

const ROW: f64 = 22.0;
const LEFT: f64 = 170.0;
const WIDTH: f64 = 460.0;
const RIGHT: f64 = 190.0;
/// On the logarithmic axis nothing is shorter than this part of the longest bar.
const DECADES_MAX: f64 = 6.0;

/// A chart with a logarithmic axis, since peers are apart by orders of magnitude; the axis says so by its lines, one for each power of ten.
pub fn chart(bars: &[Bar]) -> String {
    let values = bars.iter().filter_map(|b| b.values).filter(|(m, ..)| *m > 0.0);
    let (low, high) = values.fold((f64::MAX, 0.0_f64), |(low, high), (_, min, max)| (low.min(min.max(f64::MIN_POSITIVE)), high.max(max)));
    if high <= 0.0 {
        return String::new();
    }
    let (last, first) = (high.log10().ceil(), (low.log10() - 0.05).floor());
    let first = first.max(last - DECADES_MAX);
    let x = |value: f64| LEFT + ((value.max(f64::MIN_POSITIVE).log10() - first) / (last - first).max(1.0)).clamp(0.0, 1.0) * WIDTH;
    let height = ROW * bars.len() as f64 + 10.0;
    let mut out = format!("<svg viewBox=\"0 0 {} {height}\" width=\"{0}\" role=\"img\">", LEFT + WIDTH + RIGHT);
    for decade in first as i32..=last as i32 {
        let x = x(10f64.powi(decade));
        out += &format!("<line class=\"grid\" x1=\"{x:.1}\" y1=\"0\" x2=\"{x:.1}\" y2=\"{height}\"/>");
    }
    for (row, bar) in bars.iter().enumerate() {
        let (top, middle) = (row as f64 * ROW + 8.0, row as f64 * ROW + 15.0);
        out += &format!("<text class=\"label\" x=\"{}\" y=\"{}\">{}</text>", LEFT - 8.0, middle + 4.0, escape(&bar.label));
        let mut end = LEFT;
        if let Some((median, min, max)) = bar.values {
            end = x(max);
            let class = if bar.is_ours { "ours" } else { "peer" };
            out +=
                &format!("<rect class=\"{class}\" x=\"{LEFT}\" y=\"{top}\" width=\"{:.1}\" height=\"14\"/>", (x(median) - LEFT).max(1.0));
            out += &format!("<line class=\"range\" x1=\"{:.1}\" y1=\"{middle}\" x2=\"{end:.1}\" y2=\"{middle}\"/>", x(min));
        }
        out += &format!("<text x=\"{:.1}\" y=\"{}\">{}</text>", end + 8.0, middle + 4.0, escape(&bar.text));
    }
    out + "</svg>"
}

/// Text for HTML and SVG.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
