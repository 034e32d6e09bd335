import Core
import Scan
import Scheduling

/// A prompt that plugins have dealt with while the body came, down to what was known of it last.
/// It counts if the whole body shows that this was the prompt.
struct FollowedPrompt {
    /// What the producers did.
    let works: [(producer: String, work: any PromptWork)]
    fileprivate let content: Content

    fileprivate enum Content {
        /// So many, which stand there.
        case tokens(Int, Range<Int>)
        /// Text at these places, one behind the other.
        case text([Range<Int>])
    }

    /// How many token ids `value` is a list of; nil if it is not the list that was read.
    func tokenCount(of value: JSONValue) -> Int? {
        guard case .tokens(let count, let range) = content, value.integersRange == range else {
            return nil
        }
        return count
    }

    /// Whether the prompt is the text at these places.
    func isText(at ranges: [Range<Int>]) -> Bool {
        if case .text(let own) = content { own == ranges } else { false }
    }
}

/// Finds the prompt in a body while it comes and gives it, piece by piece, to the producers that
/// follow prompts. Belongs to a session.
///
/// What it goes by are guesses, such as that no second member of the same name will come. They are
/// checked when the body is whole: ``FollowedPrompt``. A prompt whose members come in another order
/// than that in which they are the prompt is left alone.
struct PromptFollowing {
    private enum State {
        case looking
        case tokens(JSONGrowingValue, place: Int, count: Int)
        /// The values that are the prompt, and how much of the last one was given away.
        case text([JSONGrowingValue], place: Int)
        case givenUp
    }

    /// Shorter bodies are read at the end.
    static let minimumBytes = 16 << 10
    /// Token ids that are read at a time.
    private static let roomCount = 4096

    private let router: Router
    private let headers: any HeaderLookup
    private let expectedBytes: Int
    /// The members that are the prompt, in their order there.
    private let names: [String]
    /// Whether the last of them is a prompt that may be token ids, or one of several.
    private let isPrompt: Bool
    private let followsText: Bool

    private var state = State.looking
    private var walk = JSONMemberWalk()
    private var model: JSONGrowingValue?
    private var salt: JSONGrowingValue?
    /// How many of the names are behind.
    private var passed = 0
    /// A prompt whose first element decides what it is.
    private var undecided: JSONGrowingValue?
    private var works: [(producer: String, work: any PromptWork)] = []

    /// Nil if the body of such a request is not worth it.
    init?(of api: RequestAPI?, headers: any HeaderLookup, expectedBytes: Int, router: Router) {
        guard let api, let members = api.promptMembers else { return nil }
        let scheduler = router.scheduler
        // Where engines tell the token ids the text does not matter.
        let isTokenized = scheduler.needsTokens && api.renderPath != nil
        followsText = scheduler.followsPrompts && !isTokenized
        switch members {
        case .prompt(let name):
            names = [name]
            isPrompt = true
        case .messages(let name, let others):
            guard followsText else { return nil }
            names = others + [name]
            isPrompt = false
        }
        self.router = router
        self.headers = headers
        self.expectedBytes = expectedBytes
    }

    /// More of the body is there.
    mutating func advance(_ scanner: JSONScanner) {
        if case .givenUp = state { return }
        repeat {
            decide()
            giveText(scanner)
            giveTokens()
        } while meetNext(scanner)
    }

    /// What there is when the body is complete.
    func finish() -> FollowedPrompt? {
        switch state {
        case .looking, .givenUp: nil
        case .tokens(let list, let place, let count):
            FollowedPrompt(works: works, content: .tokens(count, list.start..<place))
        case .text(let values, _):
            FollowedPrompt(works: works, content: .text(values.map(\.content)))
        }
    }

    /// Looks at the next member; false if it has not begun.
    private mutating func meetNext(_ scanner: JSONScanner) -> Bool {
        guard let (key, value) = scanner.nextMember(&walk) else { return false }
        if key.equals("model") {
            model = value
        } else if key.equals("cache_salt") {
            salt = value
        } else if let index = names.firstIndex(where: key.equals), !value.isNull {
            guard index >= passed else { return giveUp() }
            passed = index + 1
            if isPrompt {
                undecided = value
            } else {
                return goOn(value)
            }
        }
        return true
    }

    @discardableResult
    private mutating func giveUp() -> Bool {
        state = .givenUp
        works = []
        return false
    }

    /// The text of the prompt goes on with a value.
    private mutating func goOn(_ value: JSONGrowingValue) -> Bool {
        guard followsText, value.isString || value.isContainer else { return giveUp() }
        switch state {
        case .looking:
            guard begin(.text) else { return giveUp() }
            state = .text([value], place: value.content.lowerBound)
        case .text(let values, _):
            state = .text(values + [value], place: value.content.lowerBound)
        case .tokens, .givenUp: return giveUp()
        }
        return true
    }

    /// Looks what a prompt is.
    private mutating func decide() {
        while let value = undecided {
            if value.isString {
                undecided = nil
                _ = goOn(value)
            } else if let first = value.firstElement {
                if first.isIntegers {
                    undecided = nil
                    guard begin(.tokens) else {
                        giveUp()
                        return
                    }
                    state = .tokens(first, place: first.start, count: 0)
                } else if first.isString || first.isContainer {
                    undecided = first
                } else {
                    // A number whose end is to come, or nothing that is a prompt.
                    return
                }
            } else {
                return
            }
        }
    }

    private mutating func begin(_ form: PromptBeginning.Form) -> Bool {
        // A member that has come is complete, as another has begun behind it.
        let beginning = PromptBeginning(
            form: form, expectedBytes: expectedBytes,
            targetModel: router.foreseeModel(asked: model?.string, headers: headers),
            cacheSalt: salt?.string)
        guard let works = router.scheduler.follow(beginning) else { return false }
        self.works = works
        return true
    }

    private mutating func giveText(_ scanner: JSONScanner) {
        guard case .text(let values, let place) = state, let content = values.last?.content,
            place < content.upperBound
        else { return }
        scanner.bytes[place..<content.upperBound].withUnsafeBufferPointer { text in
            for (_, work) in works { work.append(text: text.span) }
        }
        state = .text(values, place: content.upperBound)
    }

    private mutating func giveTokens() {
        guard case .tokens(let list, var place, var count) = state, place < list.end else {
            return
        }
        let isValid = withUnsafeTemporaryAllocation(of: UInt32.self, capacity: Self.roomCount) {
            (room) in
            while place < list.end {
                guard let read = try? list.readTokenIDs(from: &place, into: room) else {
                    return false
                }
                count += read
                let ids = UnsafeBufferPointer(rebasing: room[..<read])
                for (_, work) in works { work.append(ids.span) }
            }
            return true
        }
        state = isValid ? .tokens(list, place: place, count: count) : .givenUp
    }
}
