//! The comparison of savepoint names, as the servers do it.
//!
//! Both families compare the names in the collation of their identifiers, `utf8mb3_general_ci`, in which letters with the
//! same base letter are equal: `E`, `e` and `é`. MariaDB does so up to 11.4; from 11.5 on it compares identifiers in
//! `utf8mb3_general1400_as_ci`, which is sensitive to accents and insensitive to case. Neither collation ignores spaces at
//! the end of a savepoint's name.

/// The collation of a server's savepoint names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Collation {
    /// `utf8mb3_general_ci`: names are equal if their base letters are.
    #[default]
    General,
    /// `utf8mb3_general1400_as_ci`: names are equal if they differ in case alone.
    AccentSensitive,
}

impl Collation {
    /// Returns a server's collation, by the version in its format description: `9.7.4`, `10.11.18-MariaDB-log`.
    pub fn of_version(version: &[u8], is_mariadb: bool) -> Self {
        let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<u32>().ok();
        let mut numbers = version.split(|byte| !byte.is_ascii_digit()).map(|text| number(text).unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if is_mariadb && version >= (11, 5) { Self::AccentSensitive } else { Self::General }
    }

    /// Returns the name's key: names are equal if and only if their keys are.
    pub fn key(self, name: &str) -> String {
        match self {
            _ if name.is_ascii() => name.to_ascii_lowercase(),
            Self::General => name.chars().map(base).collect(),
            Self::AccentSensitive => name.chars().map(fold_case).collect(),
        }
    }
}

/// Returns the base letter of a character: the first of the characters that are equal to it.
fn base(character: char) -> char {
    if character.is_ascii() {
        return character.to_ascii_lowercase();
    }
    let group = EQUAL.split(' ').find(|group| group.contains(character));
    let first = group.and_then(|group| group.chars().next());
    first.map_or(character, |first| first.to_ascii_lowercase())
}

/// Returns a character without its case: its capital if that is one character, or else its small letter.
fn fold_case(character: char) -> char {
    let (mut capitals, mut small) = (character.to_uppercase(), character.to_lowercase());
    match (capitals.len(), small.len()) {
        (1, _) => capitals.next(),
        (_, 1) => small.next(),
        _ => None,
    }
    .unwrap_or(character)
}

/// Groups of characters that are equal in `utf8mb3_general_ci`, except groups of ASCII letters alone.
///
/// ```sql
/// SELECT HEX(WEIGHT_STRING(CONVERT(_utf16 x'00e9' USING utf8mb3) COLLATE utf8mb3_general_ci))
/// ```
const EQUAL: &str = "\
    AaÀÁÂÃÄÅàáâãäåĀāĂăĄąǍǎǞǟǠǡǺǻȀȁȂȃȦȧḀḁẠạẢảẤấẦầẨẩẪẫẬậẮắẰằẲẳẴẵẶặ BbḂḃḄḅḆḇ CcÇçĆćĈĉĊċČčḈḉ \
    DdĎďḊḋḌḍḎḏḐḑḒḓ EeÈÉÊËèéêëĒēĔĕĖėĘęĚěȄȅȆȇȨȩḔḕḖḗḘḙḚḛḜḝẸẹẺẻẼẽẾếỀềỂểỄễỆệ FfḞḟ GgĜĝĞğĠġĢģǦǧǴǵḠḡ \
    HhĤĥȞȟḢḣḤḥḦḧḨḩḪḫẖ IiÌÍÎÏìíîïĨĩĪīĬĭĮįİıǏǐȈȉȊȋḬḭḮḯỈỉỊị JjĴĵǰ KkĶķǨǩḰḱḲḳḴḵ LlĹĺĻļĽľḶḷḸḹḺḻḼḽ \
    MmḾḿṀṁṂṃ NnÑñŃńŅņŇňǸǹṄṅṆṇṈṉṊṋ \
    OoÒÓÔÕÖòóôõöŌōŎŏŐőƠơǑǒǪǫǬǭȌȍȎȏȪȫȬȭȮȯȰȱṌṍṎṏṐṑṒṓỌọỎỏỐốỒồỔổỖỗỘộỚớỜờỞởỠỡỢợ PpṔṕṖṗ \
    RrŔŕŖŗŘřȐȑȒȓṘṙṚṛṜṝṞṟ SsßŚśŜŝŞşŠšſȘșṠṡṢṣṤṥṦṧṨṩẛ TtŢţŤťȚțṪṫṬṭṮṯṰṱẗ \
    UuÙÚÛÜùúûüŨũŪūŬŭŮůŰűŲųƯưǓǔǕǖǗǘǙǚǛǜȔȕȖȗṲṳṴṵṶṷṸṹṺṻỤụỦủỨứỪừỬửỮữỰự VvṼṽṾṿ WwŴŵẀẁẂẃẄẅẆẇẈẉẘ XxẊẋẌẍ \
    YyÝýÿŶŷŸȲȳẎẏẙỲỳỴỵỶỷỸỹ ZzŹźŻżŽžẐẑẒẓẔẕ µΜμ ÆæǢǣǼǽ Ðð ØøǾǿ Þþ Đđ Ħħ Ĳĳ Ŀŀ Łł Ŋŋ Œœ Ŧŧ Ɓɓ Ƃƃ Ƅƅ Ɔɔ \
    Ƈƈ Ɖɖ Ɗɗ Ƌƌ Ǝǝ Əə Ɛɛ Ƒƒ Ɠɠ Ɣɣ ƕǶ Ɩɩ Ɨɨ Ƙƙ Ɯɯ Ɲɲ Ɵɵ Ƣƣ Ƥƥ Ʀʀ Ƨƨ Ʃʃ Ƭƭ Ʈʈ Ʊʊ Ʋʋ Ƴƴ Ƶƶ ƷǮǯʒ Ƹƹ Ƽƽ \
    ƿǷ Ǆǅǆ Ǉǈǉ Ǌǋǌ Ǥǥ Ǳǲǳ Ȝȝ Ȣȣ Ȥȥ \u{345}ΊΐΙΪίιϊἰἱἲἳἴἵἶἷἸἹἺἻἼἽἾἿὶιῐῑῒῖῗῘῙῚ \
    ΆΑάαἀἁἂἃἄἅἆἇἈἉἊἋἌἍἎἏὰᾀᾁᾂᾃᾄᾅᾆᾇᾈᾉᾊᾋᾌᾍᾎᾏᾰᾱᾲᾳᾴᾶᾷᾸᾹᾺᾼ ΈΕέεἐἑἒἓἔἕἘἙἚἛἜἝὲῈ \
    ΉΗήηἠἡἢἣἤἥἦἧἨἩἪἫἬἭἮἯὴᾐᾑᾒᾓᾔᾕᾖᾗᾘᾙᾚᾛᾜᾝᾞᾟῂῃῄῆῇῊῌ ΌΟοόὀὁὂὃὄὅὈὉὊὋὌὍὸῸ ΎΥΫΰυϋύὐὑὒὓὔὕὖὗὙὛὝὟὺῠῡῢῦῧῨῩῪ \
    ΏΩωώὠὡὢὣὤὥὦὧὨὩὪὫὬὭὮὯὼᾠᾡᾢᾣᾤᾥᾦᾧᾨᾩᾪᾫᾬᾭᾮᾯῲῳῴῶῷῺῼ Ββϐ Γγ Δδ Ζζ Θθϑ Κκϰ Λλ Νν Ξξ Ππϖ ΡρϱῤῥῬ Σςσϲ Ττ \
    Φφϕ Χχ Ψψ ϒϓϔ Ϛϛ Ϝϝ Ϟϟ Ϡϡ Ϣϣ Ϥϥ Ϧϧ Ϩϩ Ϫϫ Ϭϭ Ϯϯ ЀЁЕеѐёӖӗ Ђђ ЃГгѓ Єє Ѕѕ ІЇії Јј Љљ Њњ Ћћ ЌКкќ \
    ЍИиѝӢӣӤӥ ЎУуўӮӯӰӱӲӳ Џџ АаӐӑӒӓ Бб Вв Дд ЖжӁӂӜӝ ЗзӞӟ Йй Лл Мм Нн ОоӦӧ Пп Рр Сс Тт Фф Хх Цц ЧчӴӵ \
    Шш Щщ Ъъ ЫыӸӹ Ьь ЭэӬӭ Юю Яя Ѡѡ Ѣѣ Ѥѥ Ѧѧ Ѩѩ Ѫѫ Ѭѭ Ѯѯ Ѱѱ Ѳѳ ѴѵѶѷ Ѹѹ Ѻѻ Ѽѽ Ѿѿ Ҁҁ Ҍҍ Ҏҏ Ґґ Ғғ Ҕҕ Җҗ \
    Ҙҙ Ққ Ҝҝ Ҟҟ Ҡҡ Ңң Ҥҥ Ҧҧ Ҩҩ Ҫҫ Ҭҭ Үү Ұұ Ҳҳ Ҵҵ Ҷҷ Ҹҹ Һһ Ҽҽ Ҿҿ Ӄӄ Ӈӈ Ӌӌ Ӕӕ ӘәӚӛ Ӡӡ ӨөӪӫ Աա Բբ Գգ \
    Դդ Եե Զզ Էէ Ըը Թթ Ժժ Իի Լլ Խխ Ծծ Կկ Հհ Ձձ Ղղ Ճճ Մմ Յյ Նն Շշ Ոո Չչ Պպ Ջջ Ռռ Սս Վվ Տտ Րր Ցց Ււ Փփ \
    Քք Օօ Ֆֆ άΆ έΈ ήΉ ίΊ όΌ ύΎ ώΏ Ⅰⅰ Ⅱⅱ Ⅲⅲ Ⅳⅳ Ⅴⅴ Ⅵⅵ Ⅶⅶ Ⅷⅷ Ⅸⅸ Ⅹⅹ Ⅺⅺ Ⅻⅻ Ⅼⅼ Ⅽⅽ Ⅾⅾ Ⅿⅿ Ⓐⓐ Ⓑⓑ Ⓒⓒ Ⓓⓓ Ⓔⓔ Ⓕⓕ \
    Ⓖⓖ Ⓗⓗ Ⓘⓘ Ⓙⓙ Ⓚⓚ Ⓛⓛ Ⓜⓜ Ⓝⓝ Ⓞⓞ Ⓟⓟ Ⓠⓠ Ⓡⓡ Ⓢⓢ Ⓣⓣ Ⓤⓤ Ⓥⓥ Ⓦⓦ Ⓧⓧ Ⓨⓨ Ⓩⓩ Ａａ Ｂｂ Ｃｃ Ｄｄ Ｅｅ Ｆｆ Ｇｇ Ｈｈ Ｉｉ Ｊｊ Ｋｋ Ｌｌ \
    Ｍｍ Ｎｎ Ｏｏ Ｐｐ Ｑｑ Ｒｒ Ｓｓ Ｔｔ Ｕｕ Ｖｖ Ｗｗ Ｘｘ Ｙｙ Ｚｚ";

#[cfg(test)]
mod tests {
    use super::*;

    /// The results of `SAVEPOINT a` and `ROLLBACK TO b` on MySQL 9.7 and MariaDB 10.5 and 11.8.
    #[test]
    fn names_are_equal_where_the_servers_say_so() {
        for (a, b, general, accents) in [
            ("a", "A", true, true),
            ("a", "b", false, false),
            ("a", "a ", false, false),
            ("a", "a`", false, false),
            ("e", "é", true, false),
            ("É", "é", true, true),
            ("E", "é", true, false),
            ("ß", "s", true, false),
            ("ß", "ẞ", false, false),
            ("å", "Å", true, true),
            ("Å", "\u{212b}", false, false),
            ("ﬀ", "ff", false, false),
            ("ᾳ", "ᾼ", true, true),
            ("ᾳ", "α", true, false),
            ("Σ", "ς", true, true),
            ("й", "И", false, false),
            ("ё", "Е", true, false),
            ("İ", "i", true, false),
            ("Ⱥ", "ⱥ", false, true),
            ("表", "表", true, true),
        ] {
            for (collation, expected) in [(Collation::General, general), (Collation::AccentSensitive, accents)] {
                let key = |name: &str| collation.key(&format!("x{name}"));
                assert_eq!(key(a) == key(b), expected, "{a} {b} {collation:?}");
            }
        }
    }

    #[test]
    fn a_servers_version_tells_how() {
        for (version, is_mariadb, expected) in [
            (&b"9.7.4\0\0"[..], false, Collation::General),
            (b"11.5.2\0", false, Collation::General),
            (b"10.11.18-MariaDB-log\0", true, Collation::General),
            (b"11.4.9-MariaDB\0", true, Collation::General),
            (b"11.5.2-MariaDB\0", true, Collation::AccentSensitive),
            (b"12.0.1-MariaDB\0", true, Collation::AccentSensitive),
            (b"", false, Collation::General),
        ] {
            assert_eq!(Collation::of_version(version, is_mariadb), expected);
        }
    }
}
