//! How a figure is written: its HELP, its TYPE, and a line for each of its samples.
//!
//! Always true: a figure without a sample is left out with its HELP and TYPE. A gauge is a float, as Prometheus keeps it anyway.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::repair::lag::{LagFrom, STEPS};

/// Labels of one sample: names, which are the program's, and values.
pub(super) type Labels<'a, const N: usize> = [(&'static str, &'a str); N];

/// An answer, while it is written.
pub(super) struct Page<'a>(pub(super) DescriptorEncoder<'a>);

impl Page<'_> {
    /// A value that goes up and down; absent if it is not known.
    pub(super) fn gauge(
        &mut self,
        name: &str,
        help: &str,
        value: impl Into<Option<f64>>,
    ) -> fmt::Result {
        self.gauges(name, help, value.into().map(|value| ([], value)))
    }

    /// One for each set of labels.
    pub(super) fn gauges<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l, N>, f64)>,
    ) -> fmt::Result {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let encoder = &mut self.0;
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    /// What only grows, from the start of the process; `_total` is put behind its name.
    pub(super) fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.counters(name, help, [([], value)])
    }

    /// One for each set of labels.
    pub(super) fn counters<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l, N>, u64)>,
    ) -> fmt::Result {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let encoder = &mut self.0;
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            metric
                .encode_family(&labels)?
                .encode_counter::<NoLabelSet, _, f64>(&value, None)?;
        }
        Ok(())
    }

    /// How long things took, from the start of the process, one for each set of labels.
    pub(super) fn histograms<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels<'l, N>, &'l LagFrom)>,
    ) -> fmt::Result {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let encoder = &mut self.0;
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, lag) in samples {
            let ends = STEPS.into_iter().chain([f64::INFINITY]);
            let steps: Vec<(f64, u64)> = ends.zip(lag.steps).collect();
            metric
                .encode_family(&labels)?
                .encode_histogram::<NoLabelSet>(lag.sum.as_secs_f64(), lag.changes, &steps, None)?;
        }
        Ok(())
    }

    /// What does not change while the process lives; `_info` is put behind its name.
    pub(super) fn info<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        labels: Labels<'_, N>,
    ) -> fmt::Result {
        let encoder = &mut self.0;
        encoder
            .encode_descriptor(name, help, None, MetricType::Info)?
            .encode_info(&labels)
    }
}

/// A yes or no, as Prometheus has it.
pub(super) fn flag(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

/// A count. Beyond 2^53 the last digits are lost, as they would be in Prometheus.
pub(super) fn count(number: u64) -> f64 {
    number as f64
}
