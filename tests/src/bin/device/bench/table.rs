//! Rows of the tables, and what they come to.

use std::fmt;

use serde_json::{Map, Value, json};
use symm_core::Path;

use super::ours::Sample;

/// What the issue allows: device time beside the best of the raw ways, host time beside the raw call.
const DEVICE_GOAL: f64 = 1.02;
const HOST_GOAL: f64 = 1.05;
const HOST_EXTRA: f64 = 100.0;

/// One size of one operation.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) bytes: usize,
    /// What ours said.
    pub(super) path: Path,
    /// The raw way that is like it.
    pub(super) like: usize,
    /// A figure for each way, ours first.
    pub(super) ways: Vec<Sample>,
    /// The raw ways once more.
    pub(super) again: Vec<Sample>,
}

impl Row {
    /// The raw way that takes the device least time.
    fn best(&self) -> usize {
        let time = |way: &usize| self.ways[*way].device;
        let ways = 1..self.ways.len();
        ways.min_by(|a, b| time(a).total_cmp(&time(b))).unwrap_or(0)
    }

    /// Device time of ours beside the best raw way.
    fn ratio(&self) -> f64 {
        self.ways[0].device / self.ways[self.best()].device
    }

    /// Of the best raw way beside itself: what the ratio would be if ours were that way.
    fn noise(&self) -> f64 {
        match self.best() {
            0 => 1.0,
            best => self.again[best - 1].device / self.ways[best].device,
        }
    }

    /// Host time of ours, and of the raw call that goes the same way.
    fn host(&self) -> (f64, f64) {
        (self.ways[0].host, self.ways[self.like].host)
    }

    /// Nanoseconds by which ours takes the host longer than the goal says; negative if it does not.
    fn host_over(&self) -> f64 {
        let (ours, raw) = self.host();
        ours - (HOST_GOAL * raw + HOST_EXTRA)
    }

    pub(super) fn json(&self, operation: &str, names: &[&str]) -> Value {
        let by_name = |samples: &[Sample], names: &[&str], figure: fn(&Sample) -> f64| {
            let pairs = names.iter().zip(samples);
            let pairs = pairs.map(|(name, sample)| ((*name).to_owned(), json!(figure(sample))));
            Value::Object(pairs.collect::<Map<_, _>>())
        };
        let raw = names.get(1..).unwrap_or_default();
        json!({
            "operation": operation,
            "bytes": self.bytes,
            "path": self.path.to_string(),
            "device_us": by_name(&self.ways, names, |sample| sample.device),
            "device_us_again": by_name(&self.again, raw, |sample| sample.device),
            "host_ns": by_name(&self.ways, names, |sample| sample.host),
            "host_ns_again": by_name(&self.again, raw, |sample| sample.host),
            "ratio": self.ratio(),
            "noise": self.noise(),
            "host_over_goal_ns": self.host_over(),
        })
    }
}

/// How the rows of one operation are printed.
pub(super) struct Table {
    title: String,
    names: &'static [&'static str],
}

impl Table {
    pub(super) fn new(operation: &str, names: &'static [&'static str], place: &str) -> Self {
        Self {
            title: format!("{operation} of bf16 (sums), {place}"),
            names,
        }
    }

    pub(super) fn head(&self) -> String {
        let columns: String = self
            .names
            .iter()
            .map(|name| format!("{name:>12}"))
            .collect();
        format!(
            "{}\nus of the device each call, by bytes of the larger operand; ns of the host for ours and for the raw call that goes the same way\n\
             {:>10}{columns}{:>8}{:>8}{:>10}{:>10}{:>8}  path",
            self.title, "bytes", "ratio", "noise", "host", "raw host", "over"
        )
    }

    pub(super) fn line(&self, row: &Row) -> String {
        let columns: String = row
            .ways
            .iter()
            .map(|sample| format!("{:>12.2}", sample.device))
            .collect();
        let (ours, raw) = row.host();
        format!(
            "{:>10}{columns}{:>8.3}{:>8.3}{ours:>10.0}{raw:>10.0}{:>8.0}  {}",
            row.bytes,
            row.ratio(),
            row.noise(),
            row.host_over(),
            row.path
        )
    }
}

/// All rows, by operation.
#[derive(Debug, Default)]
pub(super) struct Summary(Vec<(&'static str, Vec<Row>)>);

impl Summary {
    pub(super) fn add(&mut self, operation: &'static str, row: Row) {
        match self.0.iter_mut().find(|(name, _)| *name == operation) {
            Some((_, rows)) => rows.push(row),
            None => self.0.push((operation, vec![row])),
        }
    }

    pub(super) fn json(&self) -> Value {
        let means = self.0.iter().map(|(operation, rows)| {
            let mean = json!({
                "ratio": geometric_mean(rows.iter().map(Row::ratio)),
                "noise": geometric_mean(rows.iter().map(Row::noise)),
            });
            ((*operation).to_owned(), mean)
        });
        json!({ "geometric_means": Value::Object(means.collect()) })
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let over = format!("over {DEVICE_GOAL}");
        writeln!(
            f,
            "{:<20}{:>8}{:>8}{over:>11}{:>9}{:>12}{:>18}{:>16}",
            "geometric means", "ratio", "noise", "worst", "at", "host ours / raw", "host over goal"
        )?;
        for (operation, rows) in &self.0 {
            let worst = rows.iter().max_by(|a, b| a.ratio().total_cmp(&b.ratio()));
            let slow = rows.iter().filter(|row| row.ratio() > DEVICE_GOAL).count();
            let dear = rows.iter().filter(|row| row.host_over() > 0.0).count();
            let host = geometric_mean(rows.iter().map(|row| row.host().0 / row.host().1));
            writeln!(
                f,
                "{operation:<20}{:>8.3}{:>8.3}{:>11}{:>9.3}{:>12}{host:>18.3}{:>16}",
                geometric_mean(rows.iter().map(Row::ratio)),
                geometric_mean(rows.iter().map(Row::noise)),
                format!("{slow} of {}", rows.len()),
                worst.map_or(f64::NAN, Row::ratio),
                worst.map_or(0, |row| row.bytes),
                format!("{dear} of {}", rows.len()),
            )?;
        }
        Ok(())
    }
}

/// The middle one; of an even number the mean of the two in the middle. Not a number if there is
/// none.
pub(super) fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    let middle = |at: usize| figures.get(at).copied().unwrap_or(f64::NAN);
    match figures.len() {
        0 => f64::NAN,
        len if len.is_multiple_of(2) => (middle(len / 2 - 1) + middle(len / 2)) / 2.0,
        len => middle(len / 2),
    }
}

pub(super) fn geometric_mean(figures: impl Iterator<Item = f64>) -> f64 {
    let (sum, number) = figures.fold((0.0, 0), |(sum, number), figure| {
        (sum + figure.ln(), number + 1)
    });
    (sum / f64::from(number)).exp()
}

#[cfg(test)]
mod tests {
    use symm_core::Reason;

    use super::*;

    const NAMES: [&str; 4] = ["ours", "windowed", "twin", "cudaMalloc"];

    fn row(bytes: usize, device: [f64; 4], host: [f64; 4], like: usize) -> Row {
        let figures = device.into_iter().zip(host);
        let ways: Vec<Sample> = figures
            .map(|(device, host)| Sample { device, host })
            .collect();
        let again = ways[1..]
            .iter()
            .map(|sample| Sample {
                device: sample.device * 1.01,
                ..*sample
            })
            .collect();
        Row {
            bytes,
            path: Path::Symmetric,
            like,
            ways,
            again,
        }
    }

    #[test]
    fn ours_is_beside_the_best_raw_way_and_its_host_beside_the_same_way() {
        let row = row(1024, [6.0, 8.0, 5.0, 9.0], [7100.0, 6000.0, 9000.0, 9.0], 1);
        assert_eq!(row.best(), 2);
        assert!((row.ratio() - 1.2).abs() < 1e-9);
        assert!((row.noise() - 1.01).abs() < 1e-9);
        // 1.05 * 6000 + 100
        assert!((row.host_over() - 700.0).abs() < 1e-6);
        let json = row.json("all_reduce", &NAMES);
        assert_eq!(json["device_us"]["twin"], 5.0);
        assert_eq!(json["device_us_again"]["windowed"], 8.08);
        assert_eq!(json["path"], "symmetric");
    }

    #[test]
    fn tables_keep_their_columns() {
        let table = Table::new("all_gather", &NAMES, "2 ranks as threads");
        let mut one = row(256 << 20, [1234.56; 4], [7100.0; 4], 2);
        one.path = Path::Plain(Reason::NoKernel);
        let (head, line) = (table.head(), table.line(&one));
        let columns = head.lines().last().expect("a line");
        assert_eq!(
            columns.find("path"),
            line.find("plain: NCCL has no symmetric kernel for it")
        );
        let end = |text: &str, word: &str| text.find(word).map(|at| at + word.len());
        assert_eq!(end(columns, "bytes"), end(&line, "268435456"));
        assert_eq!(end(columns, "ours"), end(&line, "1234.56"));
        assert_eq!(end(columns, "ratio"), end(&line, "1.000"));
    }

    #[test]
    fn the_summary_has_geometric_means_and_what_misses_the_goal() {
        let mut summary = Summary::default();
        summary.add("all_reduce", row(1024, [4.0, 2.0, 9.0, 9.0], [9.0; 4], 1));
        summary.add("all_reduce", row(2048, [1.0, 2.0, 9.0, 9.0], [9.0; 4], 1));
        summary.add("all_gather", row(2048, [2.0, 2.0, 9.0, 9.0], [9.0; 4], 1));
        let text = summary.to_string();
        let words: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            words[1],
            [
                "all_reduce",
                "1.000",
                "1.010",
                "1",
                "of",
                "2",
                "2.000",
                "1024",
                "1.000",
                "0",
                "of",
                "2"
            ]
        );
        assert_eq!(words[2][..2], ["all_gather", "1.000"]);
        let means = &summary.json()["geometric_means"];
        assert!((means["all_reduce"]["ratio"].as_f64().expect("a figure") - 1.0).abs() < 1e-9);
    }

    #[test]
    fn medians_of_odd_even_and_no_figures() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
        assert!(median(std::iter::empty()).is_nan());
        assert!((geometric_mean([1.0, 4.0].into_iter()) - 2.0).abs() < 1e-12);
    }
}
