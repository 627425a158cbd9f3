//! Truncates a text so that it fits into one part of an SMS message.
//!
//! One part has room for 160 characters of the GSM 03.38 alphabet (7 bits each; a few count twice) or, if any character
//! is outside that alphabet, for 70 UCS-2 units. Amazon SNS would split a longer text into several parts and charge for
//! each.

use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

/// The Braille pattern without dots, a blank that Unicode classifies as a symbol.
const BRAILLE_BLANK: &str = "\u{2800}";

const MAX_GSM_UNITS: usize = 160;
const MAX_UCS2_UNITS: usize = 70;

/// The basic alphabet of GSM 03.38 without its control characters.
const GSM_BASIC: &str = "@£$¥èéùìòÇØøÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?\
    ¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà";

/// The extension table. Each of its characters is sent with an escape, so it counts twice.
const GSM_EXTENSION: &str = "^{}\\[~]|€";

/// Returns the text that SNS puts before each text message of a topic with this display name.
pub fn prefix(display_name: &str) -> String {
    format!("{display_name}> ")
}

/// Returns the longest beginning of `text` that fits into one part after `prefix`, cut between user-perceived
/// characters. White space and control characters become single spaces, and invisible characters, such as a zero-width
/// space, are dropped. The result is empty if nothing is left.
pub fn truncate(prefix: &str, text: &str) -> String {
    let is_visible = |character: &&str| *character != BRAILLE_BLANK && (character.width() > 0 || is_blank(character));
    let text: String = text.graphemes(true).filter(is_visible).collect();
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let text = words.collect::<Vec<_>>().join(" ");
    // If only a late character is outside the GSM alphabet, more of the text fits when it is cut off before that
    // character.
    let gsm = beginning(prefix, &text, MAX_GSM_UNITS, gsm_units);
    let ucs2 = beginning(prefix, &text, MAX_UCS2_UNITS, |text| Some(ucs2_units(text)));
    if gsm.len() >= ucs2.len() { gsm } else { ucs2 }.to_owned()
}

/// Whether a character separates words.
fn is_blank(character: &str) -> bool {
    character.chars().all(|c| c.is_whitespace() || c.is_control())
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
        // The first grapheme alone, such as a letter with a hundred accents, is too long: cut between its code points.
        0 => longest(&mut text.split("")),
        end => end,
    };
    text.get(..end).unwrap_or_default().trim_end()
}

/// Returns the text's length in GSM characters; `None` if one of its characters is not in the alphabet.
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
    fn short_text_is_not_changed() {
        assert_eq!(truncate(PREFIX, "Somebody is at the door!"), "Somebody is at the door!");
    }

    #[test]
    fn display_name_counts_toward_the_limit() {
        assert_eq!(truncate(PREFIX, &"x".repeat(200)).len(), 150);
    }

    #[test]
    fn extension_table_characters_count_twice() {
        assert_eq!(truncate(PREFIX, &"€".repeat(200)).chars().count(), 75);
    }

    #[test]
    fn character_outside_the_gsm_alphabet_leaves_70_units() {
        assert_eq!(truncate(PREFIX, &"ж".repeat(200)).chars().count(), 60);
    }

    #[test]
    fn emoji_takes_two_units_and_is_not_cut_in_half() {
        assert_eq!(truncate(PREFIX, &"🔔".repeat(200)).chars().count(), 30);
        assert_eq!(truncate(PREFIX, &format!("ж{}", "🔔".repeat(200))).chars().count(), 30);
    }

    #[test]
    fn joined_emoji_are_one_character() {
        let family = "👩‍👩‍👧‍👦";
        assert_eq!(ucs2_units(family), 11);
        assert_eq!(truncate(PREFIX, &family.repeat(10)), family.repeat(5));
    }

    #[test]
    fn late_emoji_is_dropped_rather_than_most_of_the_text() {
        let text = format!("{}🔔", "x".repeat(100));
        assert_eq!(truncate(PREFIX, &text), "x".repeat(100));
    }

    #[test]
    fn letter_with_a_hundred_accents_is_cut_not_lost() {
        let text = format!("e{}", "\u{301}".repeat(100));
        assert_eq!(truncate(PREFIX, &text).chars().count(), 60);
    }

    #[test]
    fn white_space_and_control_characters_become_spaces() {
        assert_eq!(truncate(PREFIX, " a\r\n\tb\0c \u{2028}"), "a b c");
    }

    #[test]
    fn blank_text_becomes_empty() {
        assert_eq!(truncate(PREFIX, " \n\t"), "");
    }

    #[test]
    fn invisible_characters_are_left_out() {
        let invisible = [
            "\u{200b}",
            "\u{200b}\u{200c}\u{200d}",
            "\u{feff}",
            "\u{2060}",
            "\u{ad}",
            "\u{180e}",
            "\u{3164}",
            "\u{2800}",
            "\u{202e}",
            "\u{2066}\u{2069}",
            "\u{fe0f}",
            "\u{e0020}",
            "\u{34f}",
            " \u{200b} \n\u{200e}",
        ];
        for text in invisible {
            assert_eq!(truncate(PREFIX, text), "", "{}", text.escape_unicode());
            assert_eq!(
                truncate(PREFIX, &format!("{}ring", text.repeat(100))).trim(),
                "ring",
                "{}",
                text.escape_unicode()
            );
        }
        assert_eq!(truncate(PREFIX, "👩‍👩‍👧‍👦 ❤️"), "👩‍👩‍👧‍👦 ❤️", "joiners and selectors within a character stay");
    }

    proptest! {
        #[test]
        fn every_text_fits_one_part_and_keeps_its_beginning(prefix in "[A-Za-z]{1,11}> ", text: String) {
            let cut = truncate(&prefix, &text);
            let whole = format!("{prefix}{cut}");
            let fits = gsm_units(&whole).is_some_and(|n| n <= MAX_GSM_UNITS) || ucs2_units(&whole) <= MAX_UCS2_UNITS;
            prop_assert!(fits, "{}", whole);
            let plain = |text: &str| {
                let visible = text.graphemes(true).filter(|c| *c != BRAILLE_BLANK && (c.width() > 0 || is_blank(c)));
                visible.collect::<String>().chars().filter(|c| !c.is_whitespace() && !c.is_control()).collect::<String>()
            };
            prop_assert!(plain(&text).starts_with(&plain(&cut)));
            prop_assert_eq!(cut.is_empty(), plain(&text).is_empty());
        }
    }
}
