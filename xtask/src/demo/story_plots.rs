//! What happens in the stories.

/// A plot: the sentences between the opening and the ending.
#[derive(Debug)]
pub(crate) struct Plot {
    /// What a wish for this story names, where it is neither the thing nor
    /// the food of the story.
    pub(crate) about: Option<&'static str>,
    /// Whether the story turns on the food rather than on the thing.
    pub(crate) food: bool,
    pub(crate) sentences: &'static [&'static str],
}

pub(crate) const OPENINGS: &[&str] = &[
    "Once upon a time, there was a {trait} {kind} named {hero}.",
    "Once there was a {trait} {kind} called {hero}.",
    "{Hero} was a {trait} {kind} who lived {here}.",
    "One day, a {trait} {kind} named {hero} went for a walk {here}.",
    "Long ago, a {trait} {kind} named {hero} lived {here}.",
];

pub(crate) const ENDINGS: &[&str] = &[
    "From that day on, {hero} and {friend} were best friends.",
    "{Hero} went home with a big smile.",
    "That night, {hero} slept very well.",
    "They laughed and played until the sun went down.",
    "And {hero} never forgot that day.",
    "It was the best day of all.",
    "They lived happily ever after.",
];

pub(crate) const PLOTS: &[Plot] = &[
    // Lost and found.
    Plot {
        about: None,
        food: false,
        sentences: &[
            "{He} had {a_colour} {thing} and [loved it very much|took it everywhere|played with it every day].",
            "But one [day|morning], the {thing} was gone!",
            "{Hero} looked [under the bed|behind the door|in every room] and {here}, but {he} could not find it.",
            "{He} was [very sad|so sad|sad] and began to cry.",
            "Then {his} friend {friend} came by and said, \"[Do not cry, I will help you.|Let us look for it together.]\"",
            "They looked [behind a big tree|under a bush|near an old wall], and there was the {colour} {thing}!",
            "\"Thank you, {friend},\" said {hero}.",
        ],
    },
    // Sharing.
    Plot {
        about: None,
        food: true,
        sentences: &[
            "{Hero} had a big {food} and wanted to eat it all alone.",
            "Then {a_fkind} named {friend} came and said, \"I am so hungry.\"",
            "{Hero} looked at the {food}. {He} did not want to share.",
            "But {friend} looked [very sad|so sad|tired and sad].",
            "So {hero} [cut|broke] the {food} in two and gave {friend} a half.",
            "\"[You are very kind|How kind you are],\" said {friend}, and they ate {here}.",
            "{Hero} learned that [sharing is fun|food tastes better with a friend|it is good to share].",
        ],
    },
    // Afraid, then brave.
    Plot {
        about: Some("storm"),
        food: false,
        sentences: &[
            "{Hero} was afraid of [the storm|storms|wind and rain].",
            "One night there was a loud storm, and {he} hid under {his} bed.",
            "Then {he} heard a small voice outside. \"Help me, please!\"",
            "It was {friend}, the {fkind}, who was [wet and cold|lost in the rain|alone in the dark].",
            "{Hero} was scared, but {he} took a deep breath and ran out into the storm.",
            "{He} took {friend} [by the hand|inside|home] and made {fhim} warm.",
            "\"You are so brave,\" said {friend}.",
        ],
    },
    // Something is stuck.
    Plot {
        about: None,
        food: false,
        sentences: &[
            "{He} was playing {here} with {a_colour} {thing}.",
            "[Suddenly|Then], the wind blew, and the {thing} flew up into a tall tree.",
            "{Hero} jumped and jumped, but the tree was too [tall|high].",
            "\"[What can I do?|Oh no!]\" {he} said.",
            "{Friend}, {a_fkind}, saw it and had [an idea|a good idea].",
            "{Fhe} climbed on {hero} and reached up with a long stick.",
            "The {thing} fell down, and they both [clapped|cheered|laughed].",
        ],
    },
    // Broken and repaired.
    Plot {
        about: None,
        food: false,
        sentences: &[
            "{His} friend {friend} had a [new|lovely|shiny] {colour} {thing}.",
            "{Hero} wanted to [hold|see|try] it, but {he} dropped it, and it broke.",
            "{Friend} was [angry|very sad|upset].",
            "{Hero} said, \"I am sorry. I will make it new again.\"",
            "{He} worked [all day|all night|for a long time] with [glue|a hammer|some string] and paint.",
            "In the end the {thing} was [as good as new|even better than before].",
            "{Friend} smiled and said, \"Thank you. It is all right now.\"",
        ],
    },
    // A box with a surprise.
    Plot {
        about: Some("box"),
        food: false,
        sentences: &[
            "[{Here}|Near the house] {he} found an old box.",
            "It was [locked|shut] and very heavy.",
            "{Hero} asked {friend}, {a_fkind}, to help {him} open it.",
            "They pulled and pulled, but the box did not open.",
            "Then {friend} saw a little key under a stone.",
            "They turned the key, and inside was {a_colour} {thing}!",
            "\"We found it together, so it is ours,\" said {hero}.",
        ],
    },
    // A new friend.
    Plot {
        about: Some("friend"),
        food: false,
        sentences: &[
            "{Hero} had no friends and [felt very lonely|often felt sad|played alone every day].",
            "One [day|morning], {he} saw {a_fkind} {here}.",
            "\"[Hello|Hi], I am {friend},\" said the {fkind}. \"Do you want to play?\"",
            "{Hero} was too shy to speak and ran away.",
            "The next day, {friend} came again with {a_colour} {thing}.",
            "This time {hero} smiled and said, \"Yes, [let us play|I want to play]!\"",
        ],
    },
    // Lost in the dark.
    Plot {
        about: Some("star"),
        food: false,
        sentences: &[
            "{He} walked and walked until it was dark.",
            "Now {hero} did not know the way home, and {he} was [afraid|scared].",
            "{He} looked up and saw a bright star.",
            "\"Star, can you show me the way?\" {he} asked.",
            "The star [shone|blinked] over {place}, and {hero} went that way.",
            "There stood {friend}, the {fkind}, with {a_colour} lamp.",
            "\"I was looking for you,\" said {friend}, and they walked home together.",
        ],
    },
    // Cooking.
    Plot {
        about: None,
        food: true,
        sentences: &[
            "{Hero} wanted to make {a_food} for {his} friend {friend}.",
            "But there was no [sugar|salt|water|butter] in the house.",
            "{He} went to {place} and asked everyone for help.",
            "[An old owl|A kind cow|A busy bee|An old man] gave {him} what {he} needed.",
            "{Hero} mixed and baked, and soon the house smelled [sweet|very good|wonderful].",
            "{Friend} took a bite and said, \"This is the best {food} ever!\"",
        ],
    },
    // A race.
    Plot {
        about: Some("race"),
        food: false,
        sentences: &[
            "{Hero} wanted to win the big race {here}.",
            "{He} ran [very fast|as fast as the wind], and soon {he} was first.",
            "Then {he} saw that {friend}, the {fkind}, had fallen and hurt {fhis} foot.",
            "{Hero} stopped. {He} could win, or {he} could help.",
            "{He} went back and helped {friend} to stand up.",
            "They walked to the end together, and everyone [clapped|cheered].",
            "{Hero} did not win, but {he} [was proud|felt happy|had a new friend].",
        ],
    },
    // Seeds.
    Plot {
        about: Some("flower"),
        food: false,
        sentences: &[
            "{Hero} put a small seed into the ground {here}.",
            "Every day {he} gave it water, but nothing came up.",
            "\"[It will never grow|It does not work],\" {he} said, and {he} was sad.",
            "\"Wait a little,\" said {friend}, the {fkind}. \"Good things take time.\"",
            "So {hero} waited [for many days|and waited].",
            "Then, one morning, there was a beautiful {colour} flower!",
        ],
    },
    // A hurt bird.
    Plot {
        about: Some("bird"),
        food: false,
        sentences: &[
            "{He} heard a soft sound {here} and saw a little {colour} bird on the ground.",
            "The bird had hurt its wing and could not fly.",
            "{Hero} [put it in a warm box|took it home|made a soft bed for it].",
            "{Friend} the {fkind} brought [some water|some bread|some seeds].",
            "[After a week|Every day they cared for it, and after some time], the bird was strong again.",
            "They opened the window, and the bird flew up into the sky.",
            "{Hero} was a little sad, but [also very happy|also glad].",
        ],
    },
];
