package import Core
import Scan

/// That a pod holds a block: the name of a field of the block's hash in llm-d's layout.
package struct PodEntry: Equatable {
    /// The model server's address, `IP:port`.
    package var pod: String
    /// Where it holds the block.
    package var tier: Tier
    /// The KV-cache group that the engine's event named.
    package var group: Int?
    /// Whether a router foretells the block, which no event has told of.
    package var isSpeculative = false

    /// Makes one of what an event told.
    package init(pod: String, tier: Tier, group: Int?) {
        self.pod = pod
        self.tier = tier
        self.group = group
    }

    /// Reads a field's name; nil if it is none that llm-d writes. Members that are not known are
    /// passed over: later releases have more.
    package init?(_ field: [UInt8]) {
        guard let json = try? JSONDocument.parse(field), json.root.kind == .object,
            let pod = json["PodIdentifier"]?.string, !pod.isEmpty
        else { return nil }
        self.pod = pod
        switch json["DeviceTier"] {
        case nil: tier = .gpu
        case let value?:
            guard let name = value.string else { return nil }
            tier = Self.tier(named: name)
        }
        for name in ["Speculative", "HasGroup"] {
            if let value = json[name], value.bool == nil { return nil }
        }
        isSpeculative = json["Speculative"]?.bool ?? false
        if json["HasGroup"]?.bool == true {
            guard let value = json["GroupIdx"]?.int else { return nil }
            group = value
        }
    }

    /// As llm-d writes it: byte for byte what Go's `json.Marshal` makes of its struct.
    package var encoded: [UInt8] {
        var json = JSONWriter(capacity: 128)
        json.beginObject()
        json.member("PodIdentifier", pod)
        json.member("DeviceTier", Self.name(of: tier))
        json.member("Speculative", isSpeculative)
        json.member("HasGroup", group != nil)
        json.member("GroupIdx", group ?? 0)
        json.endObject()
        return Self.escapingHTML(json.bytes)
    }

    // MARK: - Tiers

    /// The engines' mediums in lower case, as llm-d names tiers.
    private static func name(of tier: Tier) -> String {
        switch tier {
        case .gpu: "gpu"
        case .cpu: "cpu"
        case .disk: "storage"
        case .remote: "remote"
        }
    }

    /// What is not known is taken for the slowest, as with events.
    private static func tier(named name: String) -> Tier {
        switch name {
        case "gpu", "": .gpu
        case "cpu", "cpu_pinned": .cpu
        case "storage", "disk", "fs", "shared_storage": .disk
        default: .remote
        }
    }

    // MARK: - Go's JSON

    /// Go escapes in every string what HTML or JavaScript might take for something else.
    private static func escapingHTML(_ json: [UInt8]) -> [UInt8] {
        guard json.contains(where: { "<>&".utf8.contains($0) || $0 == 0xe2 }) else { return json }
        var escaped: [UInt8] = []
        var rest = json[...]
        while let byte = rest.first {
            var length = 1
            var code: String?
            switch byte {
            case UInt8(ascii: "<"): code = "\\u003c"
            case UInt8(ascii: ">"): code = "\\u003e"
            case UInt8(ascii: "&"): code = "\\u0026"
            // U+2028 and U+2029.
            case 0xe2 where rest.starts(with: [0xe2, 0x80, 0xa8]): (code, length) = ("\\u2028", 3)
            case 0xe2 where rest.starts(with: [0xe2, 0x80, 0xa9]): (code, length) = ("\\u2029", 3)
            default: break
            }
            if let code { escaped += Array(code.utf8) } else { escaped.append(byte) }
            rest.removeFirst(length)
        }
        return escaped
    }
}
