import Foundation

/// Seconds since 1970 by the system's clock.
func wallClockSeconds() -> Double { Date().timeIntervalSince1970 }
