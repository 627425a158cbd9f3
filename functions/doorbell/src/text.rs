//! One text message's worth of text.
//!
//! A text message part holds 160 characters of the GSM 03.38 alphabet (seven bits each; a few count twice), or, as
//! soon as one character is outside that alphabet, 70 units of UCS-2. Amazon SNS would send a longer text as several
//! parts and charge for each.

use unicode_segmentation::UnicodeSegmentation;

const GSM_LIMIT: usize = 160;
const UCS2_LIMIT: usize = 70;

/// The basic alphabet of GSM 03.38 without its control characters.
const GSM_BASIC: &str = "@£$¥èéùìòÇØøÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?\
    ¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà";

/// The extension table: an escape and the character, so each counts twice.
const GSM_EXTENSION: &str = "^{}\\[~]|€";

/// What SNS puts before each text message of a topic that has this display name.
pub fn prefix(display_name: &str) -> String {
    format!("{display_name}> ")
}

/// The longest beginning of `text` that fits one text message behind `prefix`, cut between characters as a reader
/// sees them. White space and control characters become single spaces.
pub fn one_part(prefix: &str, text: &str) -> String {
    let text = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let text = text.collect::<Vec<_>>().join(" ");
    // A text that leaves the GSM alphabet late is longer without the character that does.
    let gsm = beginning(prefix, &text, GSM_LIMIT, gsm_units);
    let ucs2 = beginning(prefix, &text, UCS2_LIMIT, |text| Some(ucs2_units(text)));
    if gsm.len() >= ucs2.len() { gsm } else { ucs2 }.to_owned()
}

fn beginning<'a>(prefix: &str, text: &'a str, limit: usize, units: impl Fn(&str) -> Option<usize>) -> &'a str {
    let longest = |pieces: &mut dyn Iterator<Item = &str>| {
        let mut used = units(prefix).unwrap_or(limit);
        let fits = pieces.map_while(|piece| {
            used += units(piece)?;
            (used <= limit).then_some(piece.len())
        });
        fits.sum()
    };
    let end = match longest(&mut text.graphemes(true)) {
        // A letter under a hundred accents is longer than a part: it is cut between its code points.
        0 => longest(&mut text.split("")),
        end => end,
    };
    text.get(..end).unwrap_or_default().trim_end()
}

/// The text's length in GSM characters; `None` if one of its characters is not in the alphabet.
fn gsm_units(text: &str) -> Option<usize> {
    let units = text.chars().map(|c| match c {
        c if GSM_BASIC.contains(c) => Some(1),
        c if GSM_EXTENSION.contains(c) => Some(2),
        _ => None,
    });
    units.sum()
}

fn ucs2_units(text: &str) -> usize {
    text.encode_utf16().count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PREFIX: &str = "DOORBELL> ";

    #[test]
    fn a_short_text_stays_as_it_is() {
        assert_eq!(one_part(PREFIX, "Somebody is at the door!"), "Somebody is at the door!");
    }

    #[test]
    fn the_display_name_counts_towards_the_160() {
        assert_eq!(one_part(PREFIX, &"x".repeat(200)).len(), 150);
    }

    #[test]
    fn characters_of_the_extension_table_count_twice() {
        assert_eq!(one_part(PREFIX, &"€".repeat(200)).chars().count(), 75);
    }

    #[test]
    fn a_character_outside_the_gsm_alphabet_leaves_70_units() {
        assert_eq!(one_part(PREFIX, &"ж".repeat(200)).chars().count(), 60);
    }

    #[test]
    fn an_emoji_takes_two_units_and_is_not_cut_in_half() {
        assert_eq!(one_part(PREFIX, &"🔔".repeat(200)).chars().count(), 30);
        assert_eq!(one_part(PREFIX, &format!("ж{}", "🔔".repeat(200))).chars().count(), 30);
    }

    #[test]
    fn a_family_of_joined_emoji_is_one_character() {
        let family = "👩‍👩‍👧‍👦";
        assert_eq!(ucs2_units(family), 11);
        assert_eq!(one_part(PREFIX, &family.repeat(10)), family.repeat(5));
    }

    #[test]
    fn a_late_emoji_is_let_go_rather_than_most_of_the_text() {
        let text = format!("{}🔔", "x".repeat(100));
        assert_eq!(one_part(PREFIX, &text), "x".repeat(100));
    }

    #[test]
    fn a_letter_under_a_hundred_accents_is_cut_rather_than_lost() {
        let text = format!("e{}", "\u{301}".repeat(100));
        assert_eq!(one_part(PREFIX, &text).chars().count(), 60);
    }

    #[test]
    fn line_breaks_and_control_characters_become_single_spaces() {
        assert_eq!(one_part(PREFIX, " a\r\n\tb\0c \u{2028}"), "a b c");
    }

    #[test]
    fn a_text_of_nothing_but_white_space_is_empty() {
        assert_eq!(one_part(PREFIX, " \n\t"), "");
    }

    proptest! {
        #[test]
        fn every_text_fits_one_part_and_begins_as_it_did(prefix in "[A-Za-z]{1,11}> ", text: String) {
            let cut = one_part(&prefix, &text);
            let whole = format!("{prefix}{cut}");
            let fits = gsm_units(&whole).is_some_and(|n| n <= GSM_LIMIT) || ucs2_units(&whole) <= UCS2_LIMIT;
            prop_assert!(fits, "{}", whole);
            let plain = |text: &str| text.chars().filter(|c| !c.is_whitespace() && !c.is_control()).collect::<String>();
            prop_assert!(plain(&text).starts_with(&plain(&cut)));
            prop_assert_eq!(cut.is_empty(), plain(&text).is_empty());
        }
    }
}
