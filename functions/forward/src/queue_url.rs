//! The URLs of Amazon SQS queues.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

/// The URL of an Amazon SQS queue, such as `https://sqs.eu-west-1.amazonaws.com/222222222222/weather`, which contains
/// its region, account and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct QueueUrl {
    text: String,
    region: Option<String>,
    account: String,
    name: String,
}

/// The text is not the URL of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it must be {EXPECTED}")]
pub struct ParseQueueUrlError;

const EXPECTED: &str = "a queue's URL, such as https://sqs.eu-west-1.amazonaws.com/222222222222/weather";

/// The maximum length of a host name with a port.
const MAX_HOST: usize = 253 + 6;

impl QueueUrl {
    /// The whole URL.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The queue's region, account and name, which identify it regardless of how its URL is written.
    pub fn queue(&self) -> (Option<&str>, &str, &str) {
        (self.region(), &self.account, &self.name)
    }

    /// The queue's region; `None` if the URL does not contain one, as on a local cloud.
    pub fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }

    /// Whether it is a FIFO queue, whose name ends in `.fifo`.
    pub fn is_fifo(&self) -> bool {
        self.name.strip_suffix(".fifo").is_some()
    }
}

/// `weather of account 222222222222 in eu-west-1`.
impl fmt::Display for QueueUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, account, region, .. } = self;
        write!(f, "{name} of account {account}")?;
        region.as_ref().map_or(Ok(()), |region| write!(f, " in {region}"))
    }
}

impl FromStr for QueueUrl {
    type Err = ParseQueueUrlError;

    fn from_str(text: &str) -> Result<Self, ParseQueueUrlError> {
        Self::parse(text).ok_or(ParseQueueUrlError)
    }
}

impl QueueUrl {
    fn parse(text: &str) -> Option<Self> {
        // Local clouds may have no TLS. The scheme has no effect: the SDK uses the region's endpoint, or a configured
        // one.
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
        let (host, path) = rest.split_once('/')?;
        let (account, name) = path.split_once('/')?;
        let is_host = (1..=MAX_HOST).contains(&host.len())
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b));
        let is_account = account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
        let plain = name.strip_suffix(".fifo").unwrap_or(name);
        let is_name = !plain.is_empty()
            && name.len() <= 80
            && plain.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        (is_host && is_account && is_name).then(|| Self {
            text: text.to_owned(),
            region: region(host).map(str::to_owned),
            account: account.to_owned(),
            name: name.to_owned(),
        })
    }
}

/// Returns the region in a host name: `sqs.<region>…` or `sqs-fips.<region>…`, also after the name of a VPC endpoint,
/// or the older `<region>.queue.amazonaws.com`, which omits the region us-east-1.
fn region(host: &str) -> Option<&str> {
    if host == "queue.amazonaws.com" {
        return Some("us-east-1");
    }
    let labels: Vec<&str> = host.split('.').collect();
    labels.windows(2).find_map(|pair| match pair {
        ["sqs" | "sqs-fips", region] | [region, "queue"] if is_region(region) => Some(*region),
        _ => None,
    })
}

/// Whether the label has the form of a region's name, such as `eu-west-1` or `us-gov-west-1`.
fn is_region(label: &str) -> bool {
    let is_word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase());
    let Some((words, number)) = label.rsplit_once('-') else { return false };
    words.contains('-') && words.split('-').all(is_word) && number.parse::<u8>().is_ok()
}

impl<'de> Deserialize<'de> for QueueUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::invalid_value(de::Unexpected::Str(&text), &EXPECTED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn region_comes_from_the_host() {
        for (host, region) in [
            ("sqs.eu-west-1.amazonaws.com", Some("eu-west-1")),
            ("sqs.cn-north-1.amazonaws.com.cn", Some("cn-north-1")),
            ("sqs-fips.us-gov-west-1.amazonaws.com", Some("us-gov-west-1")),
            ("sqs.eu-west-1.api.aws", Some("eu-west-1")),
            ("vpce-1-2.sqs.ap-southeast-2.vpce.amazonaws.com", Some("ap-southeast-2")),
            ("eu-west-1.queue.amazonaws.com", Some("eu-west-1")),
            ("queue.amazonaws.com", Some("us-east-1")),
            ("127.0.0.1:4566", None),
            ("localhost:4566", None),
            ("sqs.example.com", None),
        ] {
            let url: QueueUrl = format!("https://{host}/222222222222/weather").parse().expect("a queue's URL");
            assert_eq!(url.region(), region, "{host}");
        }
    }

    #[test]
    fn fifo_queues_are_recognized_by_name() {
        let is_fifo = |name| format!("http://h/222222222222/{name}").parse::<QueueUrl>().expect("a URL").is_fifo();
        assert!(is_fifo("weather.fifo"));
        assert!(!is_fifo("weather-fifo"));
    }

    #[test]
    fn display_names_account_and_region() {
        let shown = |url: &str| url.parse::<QueueUrl>().expect("a URL").to_string();
        let url = "https://sqs.eu-west-1.amazonaws.com/222222222222/weather";
        assert_eq!(shown(url), "weather of account 222222222222 in eu-west-1");
        assert_eq!(shown("http://127.0.0.1:4566/222222222222/weather"), "weather of account 222222222222");
    }

    #[test]
    fn other_text_does_not_parse() {
        for text in [
            "",
            "weather",
            "arn:aws:sqs:eu-west-1:222222222222:weather",
            "ftp://sqs.eu-west-1.amazonaws.com/222222222222/weather",
            "https://sqs.eu-west-1.amazonaws.com/222222222222",
            "https://sqs.eu-west-1.amazonaws.com/222222222222/",
            "https://sqs.eu-west-1.amazonaws.com/222222222222/.fifo",
            "https://sqs.eu-west-1.amazonaws.com/222222222222/weather/",
            "https://sqs.eu-west-1.amazonaws.com/222222222222/wea.ther",
            "https://sqs.eu-west-1.amazonaws.com/22222222222/weather",
            "https:///222222222222/weather",
            "https://user@host/222222222222/weather",
        ] {
            assert_eq!(text.parse::<QueueUrl>(), Err(ParseQueueUrlError), "{text}");
        }
    }
}
