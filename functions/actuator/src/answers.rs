//! Which command answers which transition: the operator's document.

use std::collections::HashSet;
use std::time::Duration;

use gatehouse::{Validate, Fault, Refusal, Span, ThingName, ThingPattern};
use serde::de::{self, Unexpected};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::gateway::Code;
use crate::order::{State, Transition};

/// What stands in a device's name for the thing that the transition is about.
const THING: &str = "{thing}";

/// The longest name of an alarm's threshold.
const LONGEST_ALARM: usize = 64;

/// The largest desired state, in bytes: what AWS IoT keeps in a shadow.
const LARGEST_STATE: usize = 8 * 1024;

/// The most codes that one command sends to a gateway.
const MOST_CODES: usize = 16;

/// The shortest and the longest that a gateway may be waited for at a time.
const TIMEOUTS: [Span; 2] = [Span::from_secs(1), Span::from_secs(10)];

/// The longest that one command may wait for a gateway in all. It fits into the last third of an invocation, in which
/// no command is begun any more, and leaves time to note that it was carried out.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// The document.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Actions {
    /// Every answer that there is. Where several answer a transition with a command for one device, the first counts.
    pub answers: Vec<Answer>,
}

/// When an alarm gets into a state for some thing, a device gets a command.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// The alarm: the name of its threshold.
    pub alarm: String,
    /// The state that it gets into.
    pub to: State,
    /// The things for which this is the answer; all, where none are named.
    #[serde(default, deserialize_with = "some")]
    pub things: Option<ThingPattern>,
    /// The thing that gets the command; `{thing}` stands for the one that the transition is about, which gets it where
    /// none is named.
    #[serde(default = "the_thing_itself")]
    pub device: String,
    /// What it gets.
    pub command: Command,
}

/// What a device gets.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Command {
    /// A desired state for its shadow.
    Shadow(Shadow),
    /// Codes that an infrared gateway sends to it.
    Infrared(Infrared),
}

/// A desired state for a device shadow. A device that is offline gets it when it returns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shadow {
    /// The shadow's name; none for the classic shadow.
    #[serde(default, deserialize_with = "some", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The desired state. What it does not name stays as it is.
    pub desired: Map<String, Value>,
}

/// Codes for a TCP infrared gateway that understands Global Caché's commands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Infrared {
    /// The gateway's name in DNS, or its address.
    pub host: String,
    /// Its TCP port.
    #[serde(default = "global_cache_port")]
    pub port: u16,
    /// The codes, sent in this order: see [`Code`].
    pub send: Vec<String>,
    /// How long it may take to find the gateway and to connect to it.
    #[serde(default = "two_seconds")]
    pub connect_timeout: Span,
    /// How long the gateway may take over each code.
    #[serde(default = "three_seconds")]
    pub read_timeout: Span,
}

fn the_thing_itself() -> String {
    THING.to_owned()
}

const fn global_cache_port() -> u16 {
    4998
}

const fn two_seconds() -> Span {
    Span::from_secs(2)
}

const fn three_seconds() -> Span {
    Span::from_secs(3)
}

/// A field that may be absent, but not null.
fn some<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Kinds {
            #[serde(default, deserialize_with = "some")]
            shadow: Option<Shadow>,
            #[serde(default, deserialize_with = "some")]
            infrared: Option<Infrared>,
        }
        match Kinds::deserialize(deserializer)? {
            Kinds { shadow: Some(shadow), infrared: None } => Ok(Self::Shadow(shadow)),
            Kinds { shadow: None, infrared: Some(infrared) } => Ok(Self::Infrared(infrared)),
            _ => Err(de::Error::invalid_value(Unexpected::Map, &"exactly one of `shadow` and `infrared`")),
        }
    }
}

impl Actions {
    /// The commands that answer a transition, each with its device; none, or one a device.
    ///
    /// Refused with `bad-device` where the thing's name makes a device's too long.
    pub fn to(&self, transition: &Transition) -> Result<Vec<(ThingName, &Command)>, Refusal> {
        let Transition { threshold, thing, to, .. } = transition;
        let mut commands: Vec<(ThingName, &Command)> = Vec::new();
        for answer in &self.answers {
            let is_meant = answer.things.as_ref().is_none_or(|things| things.matches(thing));
            if answer.alarm != *threshold || answer.to != *to || !is_meant {
                continue;
            }
            let device = ThingName::new(answer.device.replace(THING, thing.as_str())).map_err(|_| {
                Refusal::new("bad-device", "The device that answers this transition has a name of over 128 characters.")
            })?;
            if commands.iter().all(|(other, _)| *other != device) {
                commands.push((device, &answer.command));
            }
        }
        Ok(commands)
    }
}

impl Validate for Actions {
    fn check(&self) -> Result<(), Fault> {
        let mut known = HashSet::new();
        for (index, answer) in self.answers.iter().enumerate() {
            let at = |path: &str| format!("answers[{index}]{path}");
            let Answer { alarm, to, things, device, command } = answer;
            let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            if !(1..=LONGEST_ALARM).contains(&alarm.len()) || !alarm.bytes().all(allowed) {
                let why = format!("It must be 1 to {LONGEST_ALARM} of the characters a-z 0-9 -.");
                return Err(Fault::new(at(".alarm"), why));
            }
            if ThingName::new(device.replace(THING, "-")).is_err() {
                let why = "It must be 1 to 128 of the characters a-z A-Z 0-9 : _ -, and may hold {thing}.";
                return Err(Fault::new(at(".device"), why));
            }
            match command {
                Command::Shadow(shadow) => shadow.check(&at(".command.shadow"))?,
                Command::Infrared(infrared) => infrared.check(&at(".command.infrared"))?,
            }
            let things = things.as_ref().map_or_else(|| "*".to_owned(), ToString::to_string);
            if !known.insert((alarm, *to, things, device)) {
                let why = "An answer before it has another command for the same alarm, state, things and device.";
                return Err(Fault::new(at(""), why));
            }
        }
        Ok(())
    }
}

impl Shadow {
    fn check(&self, path: &str) -> Result<(), Fault> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'_' | b'-');
        let is_name = |name: &String| (1..=64).contains(&name.len()) && name.bytes().all(allowed);
        if !self.name.as_ref().is_none_or(is_name) {
            let why = "It must be 1 to 64 of the characters a-z A-Z 0-9 : _ -.";
            return Err(Fault::new(format!("{path}.name"), why));
        }
        let desired = serde_json::to_string(&self.desired).unwrap_or_default();
        if self.desired.is_empty() || desired.len() > LARGEST_STATE {
            let why = format!("It must have at least one field, and at most {LARGEST_STATE} bytes.");
            return Err(Fault::new(format!("{path}.desired"), why));
        }
        Ok(())
    }
}

impl Infrared {
    fn check(&self, path: &str) -> Result<(), Fault> {
        let Self { host, port, send, connect_timeout, read_timeout } = self;
        let fault = |field: &str, why: String| Err(Fault::new(format!("{path}.{field}"), why));
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b':' | b'-' | b'_');
        if !(1..=253).contains(&host.len()) || !host.bytes().all(allowed) {
            return fault("host", "It must be a name in DNS or an address.".to_owned());
        }
        if *port == 0 {
            return fault("port", "It must be from 1 to 65535.".to_owned());
        }
        if !(1..=MOST_CODES).contains(&send.len()) {
            return fault("send", format!("It must have 1 to {MOST_CODES} codes."));
        }
        if let Some(index) = send.iter().position(|code| Code::read(code).is_none()) {
            let why = "It must be sendir,<connector>,<id>,…, such as sendir,1:1,1,38000,1,1,96,24, with no line's end.";
            return fault(&format!("send[{index}]"), why.to_owned());
        }
        let [shortest, longest] = TIMEOUTS;
        for (field, timeout) in [("connectTimeout", connect_timeout), ("readTimeout", read_timeout)] {
            if !(shortest..=longest).contains(timeout) {
                return fault(field, format!("It must be from {shortest} to {longest}."));
            }
        }
        let codes = u32::try_from(send.len()).unwrap_or(u32::MAX);
        if connect_timeout.duration() + read_timeout.duration() * codes > LONGEST_WAIT {
            let longest = LONGEST_WAIT.as_secs();
            let why = format!("With connectTimeout, and readTimeout for each code, it could take over {longest} s.");
            return Err(Fault::new(path, why));
        }
        Ok(())
    }
}
