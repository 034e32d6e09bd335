/// The headers of a request, as parsers and plugins read them.
public protocol HeaderLookup {
    /// The first value of a header; `name` is in lower case.
    func value(ofHeader name: String) -> String?
}

/// A change to the headers of the request on its way to the endpoint.
public enum HeaderMutation: Equatable, Sendable {
    /// Replaces all values of a header; the name is in lower case.
    case set(name: String, value: String)
    /// Removes all values of a header; the name is in lower case.
    case remove(name: String)
}
