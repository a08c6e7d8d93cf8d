//! A plot of proofs and speed by size of the log, once with a logarithmic and once with a linear axis.

/// What a log of some size is like.
pub(crate) struct Point {
    /// Entries of the log.
    pub(crate) size: u64,
    /// Largest proof file seen, bytes.
    pub(crate) bytes: usize,
    /// Seconds to make one.
    pub(crate) make: f64,
    /// Seconds to check one.
    pub(crate) check: f64,
    /// Puts per second until all were final, since the size before.
    pub(crate) rate: f64,
}

/// Inside of one diagram, in pixels.
const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 200.0;

/// What of a point is shown.
type Value = fn(&Point) -> f64;

/// The plot as SVG: rows are bytes, making and checking; columns are the two axes.
pub(crate) fn svg(points: &[Point]) -> String {
    let bytes: Value = |point| point.bytes as f64;
    let make: Value = |point| point.make * 1e6;
    let check: Value = |point| point.check * 1e6;
    let rate: Value = |point| point.rate;
    let series = [
        ("bytes of a proof", bytes),
        ("microseconds to make it", make),
        ("microseconds to check it", check),
        ("puts per second, submit to final", rate),
    ];
    let mut text = String::from(
        "<svg xmlns='http://www.w3.org/2000/svg' width='820' height='1110' font-family='sans-serif' font-size='11'>\n\
         <rect width='820' height='1110' fill='#fff'/>\n",
    );
    for (row, (name, value)) in series.into_iter().enumerate() {
        for (column, log) in [true, false].into_iter().enumerate() {
            let (x, y) = (60.0 + column as f64 * 400.0, 40.0 + row as f64 * 270.0);
            text += &diagram(points, name, value, log, (x, y));
        }
    }
    text + "</svg>\n"
}

fn diagram(points: &[Point], name: &str, value: Value, log: bool, (x, y): (f64, f64)) -> String {
    let most = points.iter().map(value).fold(1.0, f64::max) * 1.1;
    let along = |size: u64| {
        let largest = points.last().map_or(10, |point| point.size) as f64;
        if log { (size as f64).log10() / largest.log10() } else { size as f64 / largest }
    };
    let place = |point: &Point| (x + along(point.size) * WIDTH, y + HEIGHT - value(point) / most * HEIGHT);
    let line: Vec<String> = points.iter().map(place).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let axis = if log { "entries, logarithmic" } else { "entries, linear" };
    let mut text = format!(
        "<text x='{x}' y='{:.0}'>{name} ({axis})</text>\n<rect x='{x}' y='{y}' width='{WIDTH}' height='{HEIGHT}' \
         fill='none' stroke='#999'/>\n<polyline points='{}' fill='none' stroke='#06c' stroke-width='2'/>\n",
        y - 8.0,
        line.join(" ")
    );
    for point in points {
        let (at, height) = place(point);
        text += &format!(
            "<circle cx='{at:.1}' cy='{height:.1}' r='3' fill='#06c'/><text x='{at:.1}' y='{:.1}' \
             text-anchor='end'>{:.0}</text><text x='{at:.1}' y='{:.0}' text-anchor='middle'>{}</text>\n",
            height - 6.0,
            value(point),
            y + HEIGHT + 14.0,
            point.size
        );
    }
    text
}
