import ArgumentParser
import Foundation
import Transfer

struct TopologyCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "topology",
        abstract:
            "Memory, GPUs and NICs of a machine, and the way that KV cache takes between them.",
        discussion: """
            A way is what the hardware and the libraries allow; for a NIC, to another machine \
            through it. The transfer engine of this version moves bytes by host (memfd, cma) and \
            tcp; the other ways are told so that machines can be compared.
            """)

    @Option(help: "Another machine, as hwloc's lstopo writes it in XML, instead of this one.")
    var xml: String?

    @Flag(help: "Prints one JSON object.")
    var json = false

    func run() throws {
        let source = xml.map(MachineTopology.Source.xml) ?? .thisMachine(asksCUDA: true)
        let report = TopologyReport(try MachineTopology(source), isThisMachine: xml == nil)
        print(json ? try report.json : report.text, terminator: "")
    }
}

/// What `llmd topology` prints.
struct TopologyReport {
    private let topology: MachineTopology
    private let libraries: [SystemLibrary]
    private let limits: [SystemLimit]

    /// Libraries and limits are those of this machine, and are told of no other.
    init(_ topology: MachineTopology, isThisMachine: Bool) {
        self.topology = topology
        libraries = isThisMachine ? SystemLibrary.all : []
        limits = isThisMachine ? SystemLimit.all : []
    }

    private func indices(_ kind: MachineTopology.Kind) -> [Int] {
        topology.places.indices.filter { topology.places[$0].kind == kind }
    }

    /// Two processes may share a node; a device has no way to itself.
    private func targets(from index: Int) -> [Int] {
        topology.places.indices.filter {
            $0 != index || topology.places[$0].kind == .node
        }
    }

    private func nearest(_ kind: MachineTopology.Kind, to index: Int) -> String? {
        topology.nearest(kind, to: index).map { topology.places[$0].name }
    }
}

// MARK: - For people

extension TopologyReport {
    var text: String {
        var lines = ["memory"]
        lines += table(indices(.node).map(node))
        lines += ["GPUs"] + table(indices(.gpu).map(device), empty: "none")
        lines += ["NICs"] + table(indices(.nic).map(device), empty: "none")
        lines.append("ways (* the nearest of its kind)")
        lines += table(topology.places.indices.flatMap(ways))
        if !libraries.isEmpty {
            lines.append("libraries")
            lines += table(
                libraries.map {
                    [$0.name, $0.isOpen ? "found" : "MISSING: no \($0.purpose)", $0.detail]
                })
        }
        if !limits.isEmpty {
            lines.append("limits")
            lines += table(limits.map { [$0.name, $0.isLow ? "LOW" : "fine", $0.detail] })
        }
        return lines.joined(separator: "\n") + "\n"
    }

    private func node(_ index: Int) -> [String] {
        let place = topology.places[index]
        let pages = place.hugePages
        return [
            place.name, place.package.map { "package \($0)" } ?? "",
            "\(place.memoryByteCount >> 20) MiB",
            pages.count == 0
                ? "no huge pages reserved"
                : "\(pages.count) huge pages of \(pages.byteCount >> 20) MiB reserved",
        ]
    }

    private func device(_ index: Int) -> [String] {
        let place = topology.places[index]
        let isNIC = place.kind == .nic
        return [
            place.name, place.pciAddress, place.pciID,
            isNIC ? (place.isRDMA ? "rdma" : "no rdma") : nil,
            isNIC ? place.interface : nil,
            place.node.map { "node\($0)" } ?? "node unknown",
            nearest(isNIC ? .gpu : .nic, to: index).map { "nearest \($0)" } ?? "",
        ].compactMap(\.self)
    }

    /// The places that are reached in one way over one distance, in the order of places.
    private func ways(from index: Int) -> [[String]] {
        var rows: [(way: String, distance: String, names: [String])] = []
        for to in targets(from: index) {
            let route = topology.route(from: index, to: to)
            guard route.way != "none" else { continue }
            let name = topology.places[to].name + (route.isNearest ? "*" : "")
            if let row = rows.firstIndex(where: {
                ($0.way, $0.distance) == (route.way, route.distance)
            }) {
                rows[row].names.append(name)
            } else {
                rows.append((route.way, route.distance, [name]))
            }
        }
        return rows.map {
            [topology.places[index].name, $0.way, $0.distance, $0.names.joined(separator: " ")]
        }
    }

    /// Columns as wide as their longest cell; the last one is not padded.
    private func table(_ rows: [[String]], empty: String? = nil) -> [String] {
        guard !rows.isEmpty else { return empty.map { ["  " + $0] } ?? [] }
        let columns = rows.map(\.count).max() ?? 0
        let widths = (0..<columns).map { column in
            rows.map { $0.indices.contains(column) ? $0[column].count : 0 }.max() ?? 0
        }
        return rows.map { row in
            let cells = zip(row, widths).map { cell, width in
                cell + String(repeating: " ", count: width - cell.count)
            }
            var line = "  " + cells.joined(separator: "  ")
            while line.last == " " { line.removeLast() }
            return line
        }
    }
}

// MARK: - For programs

extension TopologyReport {
    var json: String {
        get throws {
            let encoder = JSONEncoder()
            encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes, .prettyPrinted]
            encoder.keyEncodingStrategy = .convertToSnakeCase
            return String(decoding: try encoder.encode(document), as: UTF8.self) + "\n"
        }
    }

    private var document: TopologyDocument {
        let places = topology.places
        let routes = places.indices.flatMap { from in
            targets(from: from).map { to in
                let route = topology.route(from: from, to: to)
                return TopologyDocument.Route(
                    from: places[from].name, to: places[to].name, distance: route.distance,
                    way: route.way, isNearest: route.isNearest)
            }
        }
        return TopologyDocument(
            nodes: indices(.node).map {
                let place = places[$0]
                return TopologyDocument.Node(
                    name: place.name, package: place.package, memoryBytes: place.memoryByteCount,
                    hugePageBytes: place.hugePages.byteCount,
                    hugePageCount: place.hugePages.count)
            },
            gpus: indices(.gpu).map(documentDevice), nics: indices(.nic).map(documentDevice),
            routes: routes,
            libraries: libraries.map {
                TopologyDocument.Library(
                    name: $0.name, purpose: $0.purpose, isFound: $0.isOpen, detail: $0.detail)
            },
            limits: limits.map {
                TopologyDocument.Limit(name: $0.name, isLow: $0.isLow, detail: $0.detail)
            })
    }

    private func documentDevice(_ index: Int) -> TopologyDocument.Device {
        let place = topology.places[index]
        let isNIC = place.kind == .nic
        return TopologyDocument.Device(
            name: place.name, pciAddress: place.pciAddress, pciID: place.pciID, node: place.node,
            package: place.package, isRDMA: isNIC ? place.isRDMA : nil,
            interface: isNIC ? place.interface : nil,
            nearestNIC: isNIC ? nil : nearest(.nic, to: index),
            nearestGPU: isNIC ? nearest(.gpu, to: index) : nil)
    }
}

/// The JSON of `llmd topology --json`.
private struct TopologyDocument: Encodable {
    struct Node: Encodable {
        let name: String
        let package: Int?
        let memoryBytes: UInt64
        let hugePageBytes: UInt64
        let hugePageCount: UInt64
    }

    struct Device: Encodable {
        enum CodingKeys: String, CodingKey {
            case name, pciAddress, node, package, interface
            case pciID = "pciId"
            case isRDMA = "isRdma"
            case nearestNIC = "nearestNic"
            case nearestGPU = "nearestGpu"
        }

        let name: String
        let pciAddress: String
        let pciID: String
        let node: Int?
        let package: Int?
        let isRDMA: Bool?
        let interface: String?
        let nearestNIC: String?
        let nearestGPU: String?
    }

    struct Route: Encodable {
        let from: String
        let to: String
        let distance: String
        let way: String
        let isNearest: Bool
    }

    struct Library: Encodable {
        let name: String
        let purpose: String
        let isFound: Bool
        let detail: String
    }

    struct Limit: Encodable {
        let name: String
        let isLow: Bool
        let detail: String
    }

    let nodes: [Node]
    let gpus: [Device]
    let nics: [Device]
    let routes: [Route]
    let libraries: [Library]
    let limits: [Limit]
}
