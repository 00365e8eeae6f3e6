//! When changes may be made: days of the week and a time of day.

use std::fmt;
use std::str::FromStr;

use crate::time::LocalTime;

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const DAY_MINUTES: u16 = 24 * 60;
const WEEK_MINUTES: u16 = 7 * DAY_MINUTES;

/// Days of the week and a time of day, such as `Mon-Fri 01:00-05:00`, `Sat,Sun 00:00-24:00` or `daily 22:30-04:00`, which
/// ends on the next day. In the node's own time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours {
    /// A bit a day on which it begins, Monday being the lowest.
    days: u8,
    from: u16,
    /// May be beyond midnight.
    minutes: u16,
}

/// A minute of the week, from Monday 00:00 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MinuteOfWeek(u16);

/// Why a string is no [`Hours`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "hours {value:?} are not like `Mon-Fri 01:00-05:00`, `Sat,Sun 00:00-24:00` or `daily 22:30-04:00`"
)]
pub struct ParseHoursError {
    value: String,
}

impl MinuteOfWeek {
    /// Of a day (0 is Monday), an hour and a minute; what is too large is cut down.
    pub fn new(day: u8, hour: u8, minute: u8) -> Self {
        let (day, hour, minute) = (day.min(6), hour.min(23), minute.min(59));
        Self(u16::from(day) * DAY_MINUTES + u16::from(hour) * 60 + u16::from(minute))
    }
}

impl From<LocalTime> for MinuteOfWeek {
    fn from(local: LocalTime) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 to 1439.99"
        )]
        let minute = (local.hour * 60.0) as u16;
        Self(u16::from(local.weekday.min(6)) * DAY_MINUTES + minute.min(DAY_MINUTES - 1))
    }
}

impl Hours {
    /// Whether it is within.
    pub fn open(&self, at: MinuteOfWeek) -> bool {
        self.wait_minutes(at) == 0
    }

    /// Minutes until it is within, 0 when it is.
    pub fn wait_minutes(&self, at: MinuteOfWeek) -> u16 {
        let starts = (0..7_u16)
            .filter(|day| self.days & (1 << day) != 0)
            .map(|day| day * DAY_MINUTES + self.from);
        let wait = |start: u16| {
            let since = (at.0 + WEEK_MINUTES - start) % WEEK_MINUTES;
            if since < self.minutes {
                0
            } else {
                WEEK_MINUTES - since
            }
        };
        starts.map(wait).min().unwrap_or(WEEK_MINUTES)
    }
}

impl FromStr for Hours {
    type Err = ParseHoursError;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        parse(value).ok_or_else(|| ParseHoursError {
            value: value.chars().take(64).collect(),
        })
    }
}

fn parse(value: &str) -> Option<Hours> {
    let (days, times) = value.split_once(' ')?;
    let days = if days == "daily" {
        0x7f
    } else {
        days.split(',')
            .map(days_of)
            .try_fold(0, |all, some| Some(all | some?))?
    };
    let (from, to) = times.split_once('-')?;
    let (from, to) = (minute(from)?, minute(to)?);
    if from >= DAY_MINUTES || from == to {
        return None;
    }
    let to = if to > from { to } else { to + DAY_MINUTES };
    Some(Hours {
        days,
        from,
        minutes: to - from,
    })
}

fn days_of(text: &str) -> Option<u8> {
    let day = |name: &str| DAYS.iter().position(|known| *known == name);
    match text.split_once('-') {
        None => Some(1 << day(text)?),
        Some((first, last)) => {
            let (first, last) = (day(first)?, day(last)?);
            let count = (last + 7 - first) % 7;
            Some((0..=count).fold(0, |days, step| days | 1 << ((first + step) % 7)))
        }
    }
}

fn minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let two = |text: &str| {
        let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u16>().ok()).flatten()
    };
    let (hour, minute) = (two(hour)?, two(minute)?);
    let minutes = hour * 60 + minute;
    (minute < 60 && minutes <= DAY_MINUTES).then_some(minutes)
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.days == 0x7f {
            f.write_str("daily")?;
        } else {
            let named = DAYS
                .iter()
                .enumerate()
                .filter(|(day, _)| self.days & (1 << day) != 0);
            for (count, (_, name)) in named.enumerate() {
                let comma = if count == 0 { "" } else { "," };
                write!(f, "{comma}{name}")?;
            }
        }
        let end = self.from + self.minutes;
        let end = if end > DAY_MINUTES {
            end - DAY_MINUTES
        } else {
            end
        };
        let (from, end) = ((self.from / 60, self.from % 60), (end / 60, end % 60));
        write!(f, " {:02}:{:02}-{:02}:{:02}", from.0, from.1, end.0, end.1)
    }
}

crate::as_text!(Hours);

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(text: &str) -> Hours {
        text.parse().unwrap()
    }

    #[test]
    fn hours_are_read_and_written() {
        for text in [
            "daily 22:30-04:00",
            "Mon,Tue,Wed,Thu,Fri 01:00-05:00",
            "Sat,Sun 00:00-24:00",
        ] {
            assert_eq!(hours(text).to_string(), text);
        }
        assert_eq!(
            hours("Fri-Mon 01:00-02:00"),
            hours("Mon,Fri,Sat,Sun 01:00-02:00")
        );
        for wrong in [
            "",
            "daily",
            "daily 01:00",
            "daily 1:00-02:00",
            "daily 01:00-01:00",
            "daily 24:00-01:00",
            "Mun 01:00-02:00",
            "daily 01:60-02:00",
            "daily 01:00-24:01",
            "Mon,, 01:00-02:00",
            "daily +1:00-02:00",
        ] {
            assert!(wrong.parse::<Hours>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn hours_may_pass_midnight_and_the_end_of_the_week() {
        let night = hours("Sun 22:00-04:00");
        let at = MinuteOfWeek::new;
        assert!(!night.open(at(6, 21, 59)));
        assert!(night.open(at(6, 22, 0)));
        assert!(night.open(at(0, 3, 59)));
        assert!(!night.open(at(0, 4, 0)));
        assert_eq!(night.wait_minutes(at(0, 4, 0)), WEEK_MINUTES - 6 * 60);
        assert_eq!(
            hours("Mon,Wed 10:00-11:00").wait_minutes(at(0, 11, 0)),
            47 * 60
        );
    }

    #[test]
    fn every_minute_is_within_or_waits_for_the_next_beginning() {
        let hours = hours("Tue,Sat 23:00-00:30");
        for minute in 0..WEEK_MINUTES {
            let wait = hours.wait_minutes(MinuteOfWeek(minute));
            assert!(hours.open(MinuteOfWeek((minute + wait) % WEEK_MINUTES)));
            for before in 0..wait {
                assert!(!hours.open(MinuteOfWeek((minute + before) % WEEK_MINUTES)));
            }
        }
    }
}
