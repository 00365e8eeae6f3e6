//! What of a configuration can change while the broker runs.

use super::Config;

impl Config {
    /// This configuration with the users and rules of `new`, and the keys of `new` that differ but hold from the next
    /// start on only.
    pub(crate) fn with_access_of(&self, new: Self) -> (Self, Vec<&'static str>) {
        // Named one by one, so that a new key must be put on one side or the other.
        let Self {
            listen,
            listeners,
            broker_id,
            bridges,
            allow_anonymous,
            expose_anonymous,
            users,
            users_file,
            rules,
            default_access,
            protected,
            state_dir,
            retained_flush_interval,
            sys_interval,
            metrics_listen,
            limits,
        } = new;
        let fixed = [
            ("listen", self.listen == listen),
            ("listener", self.listeners == listeners),
            ("broker_id", self.broker_id == broker_id),
            ("bridge", self.bridges == bridges),
            ("state_dir", self.state_dir == state_dir),
            (
                "retained_flush_interval",
                self.retained_flush_interval == retained_flush_interval,
            ),
            ("sys_interval", self.sys_interval == sys_interval),
            ("metrics_listen", self.metrics_listen == metrics_listen),
            ("limits", self.limits == limits),
        ];
        let ignored = fixed
            .into_iter()
            .filter_map(|(key, same)| (!same).then_some(key))
            .collect();
        let effective = Self {
            allow_anonymous,
            expose_anonymous,
            users,
            users_file,
            rules,
            default_access,
            protected,
            ..self.clone()
        };
        (effective, ignored)
    }
}
