public import Core

/// Where spans go. Hot paths call it always; without an exporter it records nothing.
public protocol SpanHook: Sendable {
    /// Whether spans are wanted.
    var isRecording: Bool { get }

    /// A span has ended. On the thread that ended it, which it must not hold up.
    func ended(_ span: Span)
}

extension SpanHook {
    /// Begins a span below `parent`; nil, at the cost of a call, if nobody wants it.
    public func begin(_ name: StaticString, under parent: TraceContext) -> Span? {
        guard isRecording, parent.isSampled else { return nil }
        return Span(name: name, parent: parent, hook: self)
    }
}

/// Records no span.
public struct NoSpans: SpanHook {
    /// Makes one.
    public init() {}

    /// False.
    public var isRecording: Bool { false }

    /// Never called.
    public func ended(_ span: Span) {}
}

/// A piece of work within a trace, from its beginning to ``end()``.
public struct Span: Sendable {
    /// What is done.
    public let name: StaticString
    /// The span's own place in the trace; what it calls gets this.
    public let context: TraceContext
    /// The span above.
    public let parentSpanID: UInt64
    /// When it began.
    public let began: MonotonicTime
    /// When it ended; nil before.
    public private(set) var ended: MonotonicTime?
    /// What is known about it, in the order of setting.
    public private(set) var attributes: [(name: StaticString, value: Value)] = []
    private let hook: any SpanHook

    /// The value of an attribute.
    public enum Value: Hashable, Sendable {
        case string(String)
        case int(Int)
        case double(Double)
        case bool(Bool)
    }

    fileprivate init(name: StaticString, parent: TraceContext, hook: any SpanHook) {
        self.name = name
        context = parent.child()
        parentSpanID = parent.spanID
        began = .now
        self.hook = hook
    }

    /// Adds an attribute.
    public mutating func set(_ name: StaticString, _ value: Value) {
        attributes.append((name, value))
    }

    /// Ends the span and hands it to the hook; a second call does nothing.
    public mutating func end() {
        guard ended == nil else { return }
        ended = .now
        hook.ended(self)
    }
}
