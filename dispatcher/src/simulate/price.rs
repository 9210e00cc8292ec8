//! What it would cost: on demand by the request, as containers that are always on, and as nodes. List prices in US dollars,
//! without free tiers, discounts and what else a bill holds; sources and dates stand in `docs/simulate.md`.

use serde::Serialize;

/// Prices in US dollars.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Prices {
    /// On demand, for a million requests.
    pub million_requests: f64,
    /// On demand, for a second of 1,024 MB.
    pub gb_second: f64,
    /// The least memory that is billed on demand, in MB.
    pub least_mb: f64,
    /// A container's virtual processor for an hour.
    pub vcpu_hour: f64,
    /// A container's 1,024 MB for an hour.
    pub gb_hour: f64,
    /// Virtual processors of a container that holds one worker.
    pub vcpus: f64,
    /// A node for an hour, and its memory in MB.
    pub node_hour: f64,
    pub node_mb: f64,
}

impl Default for Prices {
    /// AWS in us-east-1 on x86: Lambda (first tier), Fargate for Linux, an EC2 instance `m6i.large` of 2 virtual
    /// processors and 8 GiB.
    fn default() -> Self {
        Self {
            million_requests: 0.20,
            gb_second: 0.000_016_666_7,
            least_mb: 128.0,
            vcpu_hour: 0.040_48,
            gb_hour: 0.004_445,
            vcpus: 0.25,
            node_hour: 0.096,
            node_mb: 8_192.0,
        }
    }
}

impl Prices {
    /// What one GB-second of memory `mb` is billed as: whole megabytes, and no less than the least.
    pub fn billed_gb(&self, mb: f64) -> f64 {
        mb.ceil().max(self.least_mb) / 1_024.0
    }

    /// On demand: each request, and each billed GB-second.
    pub fn on_demand(&self, requests: u64, gb_seconds: f64) -> f64 {
        requests as f64 * self.million_requests / 1e6 + gb_seconds * self.gb_second
    }

    /// Containers that hold one worker each, for so many worker-seconds and GB-seconds.
    pub fn containers(&self, worker_seconds: f64, gb_seconds: f64) -> f64 {
        (worker_seconds * self.vcpus * self.vcpu_hour + gb_seconds * self.gb_hour) / 3_600.0
    }

    /// Nodes that are on for so many hours and hold `mb` of workers at the peak; at least one.
    pub fn nodes(&self, mb: f64, hours: f64) -> f64 {
        (mb / self.node_mb).ceil().max(1.0) * self.node_hour * hours
    }

    /// The requests in an hour at which a function costs as much on demand as it does with `workers` containers that are
    /// always on. Below it, on demand is cheaper. `seconds`: the mean billed duration.
    pub fn break_even_per_hour(&self, workers: f64, mb: f64, seconds: f64) -> f64 {
        let hour = self.containers(workers * 3_600.0, workers * 3_600.0 * mb / 1_024.0);
        hour / self.on_demand(1, self.billed_gb(mb) * seconds)
    }
}
