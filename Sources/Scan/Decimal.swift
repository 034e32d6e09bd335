internal import CScan

/// The number that the bytes in `range` write; NaN if they write none.
func decimal(in bytes: UnsafeBufferPointer<UInt8>, _ range: Range<Int>) -> Double {
    let text = UnsafeBufferPointer(rebasing: bytes[range])
    var value = 0.0
    if cs_decimal(text.baseAddress, text.count, &value) { return value }
    return Double(String(decoding: text, as: UTF8.self)) ?? .nan
}
