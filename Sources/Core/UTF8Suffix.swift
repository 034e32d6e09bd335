extension Substring {
    /// Whether the text ends in `suffix`, byte by byte: equal characters of other bytes do not count,
    /// and finding out takes far less time.
    public func hasUTF8Suffix(_ suffix: some BidirectionalCollection<UInt8>) -> Bool {
        utf8.reversed().starts(with: suffix.reversed())
    }
}
