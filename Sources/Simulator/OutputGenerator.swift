/// The words that the simulated model says: printable words, determined by the prompt, the seed of the
/// request and the index of the choice.
package enum OutputGenerator {
    /// The words of the model.
    private static let words: [StaticString] = [
        "about", "across", "after", "again", "air", "always", "among", "answer", "around", "ask",
        "autumn", "before", "begin", "below", "between", "bird", "boat", "book", "bridge", "bright",
        "build", "calm", "carry", "change", "clear", "close", "cloud", "cold", "colour", "come",
        "cool", "corner", "country", "cross", "dark", "day", "deep", "door", "draw", "dream",
        "drift", "early", "earth", "east", "echo", "edge", "empty", "even", "every", "far",
        "field", "fire", "first", "flow", "follow", "forest", "found", "garden", "gather", "gentle",
        "give", "glass", "gold", "green", "ground", "grow", "half", "harbour", "hear", "high",
        "hill", "hold", "home", "hour", "island", "journey", "keep", "kind", "know", "lake",
        "land", "large", "last", "late", "leaf", "learn", "leave", "letter", "light", "line",
        "listen", "little", "long", "look", "low", "map", "market", "meadow", "mean", "measure",
        "meet", "mill", "moon", "morning", "mountain", "move", "music", "name", "narrow", "near",
        "never", "new", "night", "north", "ocean", "often", "old", "open", "orchard", "over",
        "page", "paper", "part", "path", "people", "place", "plain", "point", "quick", "quiet",
        "rain", "reach", "read", "remember", "rest", "return", "river", "road", "room", "round",
        "sail", "sand", "season", "second", "shadow", "shore", "silver", "simple", "sky", "slow",
        "small", "snow", "soft", "sound", "south", "spring", "stand", "star", "stone", "story",
        "stream", "street", "summer", "sun", "table", "tell", "thought", "three", "time", "today",
        "together", "toward", "town", "travel", "tree", "turn", "under", "until", "valley", "very",
        "village", "voice", "wait", "walk", "warm", "watch", "water", "wave", "west", "wheel",
        "white", "wide", "wind", "window", "winter", "wood", "word", "work", "write", "year",
    ]

    /// Output tokens of a reply that ends by itself: about 128, at least 64.
    package static func naturalLength(_ generator: inout SeededGenerator) -> Int {
        Int.random(in: 64...192, using: &generator)
    }

    /// `count` bytes of text, of which none needs escaping in JSON.
    package static func text(count: Int, _ generator: inout SeededGenerator) -> [UInt8] {
        var text: [UInt8] = []
        text.reserveCapacity(count + 16)
        var sentenceWords = 0
        while text.count < count {
            let choice = generator.next()
            if sentenceWords > 0 {
                if sentenceWords > 6, choice >> 32 & 7 == 0 {
                    text.append(UInt8(ascii: "."))
                    sentenceWords = 0
                }
                text.append(UInt8(ascii: " "))
            }
            let word = words[Int(choice & 0xffff_ffff) % words.count]
            word.withUTF8Buffer { text.append(contentsOf: $0) }
            sentenceWords += 1
        }
        text.removeSubrange(count...)
        return text
    }

    /// The generator of one choice: `prompt` stands for the prompt's tokens.
    package static func generator(prompt: UInt64, seed: UInt64, index: Int) -> SeededGenerator {
        var mixer = SeededGenerator(seed: prompt ^ seed &* 0x9e37_79b9_7f4a_7c15)
        return SeededGenerator(seed: mixer.next() &+ UInt64(index))
    }
}
