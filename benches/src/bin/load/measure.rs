//! The warm-up, the time that counts, and the report.

use std::time::{Duration, Instant};

use rustix::event::Timespec;

use crate::Options;

/// How long the first echoes may take before the measuring starts without them.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often the end is looked for while nothing arrives.
pub(crate) const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// What is measured, from when the warm-up has passed.
pub(crate) struct Measure {
    start: Instant,
    length: Duration,
    warm: bool,
    total: u64,
    histogram: Histogram,
}

impl Measure {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            start: Instant::now() + Duration::from_secs_f64(options.warmup),
            length: Duration::from_secs_f64(options.seconds),
            warm: false,
            total: 0,
            histogram: Histogram::new(),
        }
    }

    /// Whether the time is over. It begins when everything is `served`: measured is not how fast
    /// that comes.
    pub(crate) fn is_over(&mut self, served: bool) -> bool {
        let now = Instant::now();
        if !self.warm && now >= self.start && (served || now - self.start >= PATIENCE) {
            (self.warm, self.start) = (true, now);
        }
        self.warm && now - self.start >= self.length
    }

    /// Whether what happens now counts.
    pub(crate) fn is_warm(&self) -> bool {
        self.warm
    }

    /// A request has been answered.
    pub(crate) fn add(&mut self, latency: Duration) {
        self.total += 1;
        if self.warm {
            self.histogram.add(latency);
        }
    }

    /// A second's part of what was counted.
    #[expect(clippy::cast_precision_loss, reason = "a count of a few seconds")]
    pub(crate) fn rate(&self, count: u64) -> f64 {
        count as f64 / self.start.elapsed().as_secs_f64()
    }

    /// Prints the line; `more` is what a mode adds to it.
    pub(crate) fn report(&self, errors: u64, more: &str) {
        println!(
            "{{\"requests\": {}, \"seconds\": {:.4}, \"rate\": {:.1}, \"errors\": {errors}, \
             \"p50\": {}, \"p99\": {}, \"total\": {}{more}}}",
            self.histogram.total,
            self.start.elapsed().as_secs_f64(),
            self.rate(self.histogram.total),
            self.histogram.percentile(50),
            self.histogram.percentile(99),
            self.total,
        );
    }
}

/// Latencies counted by the microsecond; the last place takes all longer ones.
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; 1 << 22], total: 0 }
    }

    pub(crate) fn add(&mut self, latency: Duration) {
        let micros = usize::try_from(latency.as_micros()).unwrap_or(usize::MAX);
        let last = self.counts.len() - 1;
        self.counts[micros.min(last)] += 1;
        self.total += 1;
    }

    /// The latency that `percent` of the requests did not exceed.
    pub(crate) fn percentile(&self, percent: u64) -> usize {
        let wanted = (self.total * percent).div_ceil(100).max(1);
        let mut seen = 0;
        self.counts
            .iter()
            .position(|count| {
                seen += count;
                seen >= wanted
            })
            .unwrap_or(0)
    }
}
