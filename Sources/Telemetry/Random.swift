import Glibc

/// Random bits for identifiers, by one call of the kernel, which is most of what they cost.
func randomWords() -> (UInt64, UInt64, UInt64) {
    var words: (UInt64, UInt64, UInt64) = (0, 0, 0)
    let status = withUnsafeMutableBytes(of: &words) { getentropy($0.baseAddress, $0.count) }
    precondition(status == 0, "no random numbers")
    return words
}
