import Foundation
import Testing
import Transfer

@Suite("Places of a machine and the ways between them")
struct MachineTopologyTests {
    private static let folder = URL(filePath: #filePath).deletingLastPathComponent()
        .deletingLastPathComponent().appending(path: "Vectors/topology")

    @Test("Every GPU has the NIC under its switch")
    func everyGPUHasTheNICUnderItsSwitch() throws {
        let file = Self.folder.appending(path: "hgx-h100.xml").path
        let topology = try MachineTopology(.xml(file: file))
        let places = topology.places
        #expect(places.filter { $0.kind == .node }.map(\.name) == ["node0", "node1"])
        #expect(places.count { $0.kind == .nic } == 10)
        let nearest = try places.indices.filter { places[$0].kind == .gpu }.map {
            places[try #require(topology.nearest(.nic, to: $0))].name
        }
        let expected = [
            "mlx5_0", "mlx5_3", "mlx5_4", "mlx5_5", "mlx5_6", "mlx5_9", "mlx5_10", "mlx5_11",
        ]
        #expect(nearest == expected)
        let gpu = try #require(places.firstIndex { $0.name == "gpu5" })
        let nic = try #require(places.firstIndex { $0.name == "mlx5_9" })
        #expect(places[gpu].pciAddress == "0000:c3:00.0")
        #expect(places[gpu].pciID == "10de:2330")
        #expect(places[nic].interface == "ibp192s0")
        #expect(places[nic].node == 1)
        let route = topology.route(from: gpu, to: nic)
        #expect(route.distance == "switch")
        #expect(route.way == "rdma")
        #expect(route.isNearest)
    }

    @Test("A synthetic machine has memory alone")
    func aSyntheticMachineHasMemoryAlone() throws {
        let topology = try MachineTopology(.synthetic("pack:2 [numa] core:2 pu:1"))
        #expect(topology.places.map(\.kind) == [.node, .node])
        #expect(topology.nearest(.gpu, to: 0) == nil)
        #expect(topology.route(from: 0, to: 1).way == "host")
    }

    @Test("What is wrong is told")
    func whatIsWrongIsTold() {
        let error = #expect(throws: MachineTopologyError.self) {
            try MachineTopology(.xml(file: "/nonexistent.xml"))
        }
        #expect(error?.description == "/nonexistent.xml: No such file or directory")
    }

    @Test("Libraries and limits have details")
    func librariesAndLimitsHaveDetails() {
        #expect(
            SystemLibrary.all.map(\.name) == ["ucx", "hwloc", "numa", "openssl", "cuda"])
        #expect(SystemLibrary.all.allSatisfy { !$0.detail.isEmpty && !$0.purpose.isEmpty })
        #expect(SystemLimit.all.map(\.name) == ["memlock", "ptrace", "shared huge pages"])
        #expect(SystemLimit.all.allSatisfy { !$0.detail.isEmpty })
    }
}
