public import Net

// Sendable: the object is reached on the loop alone; the reference itself guards its count.
/// A way from any thread to an object that belongs to a loop and may be gone by then.
public final class WeakOnLoop<Object: AnyObject>: @unchecked Sendable {
    private weak var object: Object?
    private let loop: EventLoop

    /// Keeps `object` only as long as others do.
    public init(_ object: Object, on loop: EventLoop) {
        self.object = object
        self.loop = loop
    }

    /// Runs `body` on the loop, in a turn of its own, unless the object is gone.
    public func perform(_ body: @escaping @Sendable (Object) -> Void) {
        loop.execute { [self] in
            if let object { body(object) }
        }
    }
}
