//! Names and texts of the users of the invented site.

pub const NAMES: &str = "anna ben clara david elif felix greta hugo ines jonas katya luis mia noah \
    olga paul quentin rosa samir tara uma viktor wanda xenia yusuf zoe aiko bruno \
    chloe dmitri emma farid gloria hana ivan jana kofi lena marco nina oscar priya \
    rafael sofia tom ulrike vera walter yara zeno";

pub const TOPICS: &str = "the lake, salsa night, the flea market, climbing, the new ramen place, board games, \
    the open air cinema, swimming, the jazz bar, a bike tour, the museum, karaoke, yoga, the concert";

pub const FLIRTS: &str =
    "😉, ❤️, 🌹, nice smile!, your profile made my day, coffee?, we should talk more, wow 😍";

/// One conversation per line, with alternating speakers. `{}` is replaced by a topic.
pub const SCRIPTS: &str = "\
hey, how are you? | good! just back from {} | oh nice, how was it? | wonderful, a bit crowded 😅 | next time take me along | deal 🙂
are you free on Saturday? | I think so, why? | some of us are going to {} | count me in! | 4 pm at the station? | perfect, see you
did you see my photos? | of {}? they are amazing | thank you ☺️ | which camera is that? | just my old phone, honestly | no way
I cannot stop thinking about {} | again? 😂 | it was that good | then let's go back next week | really? | really.
good morning ☀️ | morning! slept well? | not much, {} went on until three | worth it? | absolutely
random question: {}, yes or no? | yes, always | right answer | do I win something? | a coffee, if you like | Thursday? | Thursday.
running ten minutes late, sorry! | no worries, I have a seat by the window | order me a tea please | done. and cake. | you are the best
my sister asked about {} | tell her it's closed on Mondays | too late, she is standing in front of it | oh no 🙈
what are you reading? | something about {}, you would hate it | try me | 600 pages, no dialogue | ok, you know me well
thanks for yesterday | I had not laughed like that in months | same time next week? | yes, but I choose the place | let me guess: {} | maybe 😏
do you still have my umbrella? | the green one? yes | I'd need it for {} | come and get it | tonight? | tonight works
guess who I met at {} | no idea | your old maths teacher! | did he remember me? | he said: the one who never stopped talking | fair";
