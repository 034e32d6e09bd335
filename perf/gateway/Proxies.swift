import Core
import Foundation
import PerfSupport

/// A reverse proxy in front of engines.
struct Proxy {
    var name: String
    var process: MeasuredProcess
    var port: UInt16
}

/// `llmd gateway` with upstream's default profile: queue, KV cache and the approximate prefix. One
/// loop, as the others have one worker.
func startGateway(_ engines: [SocketAddress]) throws -> Proxy {
    let ports = try freePorts(2)
    let endpoints = engines.enumerated().flatMap { index, engine in
        ["--endpoint", "name=engine-\(index),address=\(engine)"]
    }
    let process = try MeasuredProcess.llmd(
        [
            "gateway", "--host", "127.0.0.1", "--loops", "1", "--port", "\(ports[0])",
            "--metrics-port", "\(ports[1])", "--config-text",
            "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig",
        ] + endpoints)
    return Proxy(name: "llmd gateway", process: process, port: ports[0])
}

/// The bytes alone.
func startFloor(_ engines: [SocketAddress]) throws -> Proxy {
    let process = try MeasuredProcess.itself(as: "floor", "\(engines[0].port)")
    return Proxy(name: "floor", process: process, port: try process.port)
}

private let peers = ".build/peers"

private func isInstalled(_ program: String) -> Bool {
    FileManager.default.isExecutableFile(atPath: program)
}

/// Fills a configuration of this folder in and writes it where the peers are.
private func writeConfiguration(
    _ name: String, port: UInt16, engines: [SocketAddress], _ entry: (SocketAddress) -> String
) throws -> String {
    let path = "\(peers)/\(name)"
    try String(contentsOfFile: "perf/gateway/\(name)", encoding: .utf8)
        .replacingOccurrences(of: "PORT", with: String(port))
        .replacingOccurrences(of: "ENGINES", with: engines.map(entry).joined(separator: "\n"))
        .write(toFile: path, atomically: true, encoding: .utf8)
    return path
}

private func startNginx(_ engines: [SocketAddress]) throws -> Proxy? {
    let program = "\(peers)/nginx/usr/sbin/nginx"
    guard isInstalled(program) else { return nil }
    let port = try freePorts(1)[0]
    _ = try writeConfiguration("nginx.conf", port: port, engines: engines) { "server \($0);" }
    let process = try MeasuredProcess(
        program, ["-p", peers, "-c", "nginx.conf", "-e", "stderr"], listeningOn: port)
    return Proxy(name: "nginx", process: process, port: port)
}

private func startEnvoy(_ engines: [SocketAddress]) throws -> Proxy? {
    let program = "\(peers)/envoy"
    guard isInstalled(program) else { return nil }
    let port = try freePorts(1)[0]
    let path = try writeConfiguration("envoy.yaml", port: port, engines: engines) { engine in
        let address = "{ address: \(engine.host), port_value: \(engine.port) }"
        return "            - endpoint: { address: { socket_address: \(address) } }"
    }
    let process = try MeasuredProcess(
        program,
        ["-c", path, "--concurrency", "1", "--disable-hot-restart", "--log-level", "off"],
        listeningOn: port)
    return Proxy(name: "Envoy", process: process, port: port)
}

let sglang = "sglang-router, cache_aware"

private func startSGLang(_ engines: [SocketAddress]) throws -> Proxy? {
    let program = "\(peers)/python/bin/smg"
    guard isInstalled(program) else { return nil }
    let ports = try freePorts(2)
    let process = try MeasuredProcess(
        program,
        [
            "launch", "--policy", "cache_aware", "--host", "127.0.0.1", "--port", "\(ports[0])",
            "--prometheus-port", "\(ports[1])", "--log-level", "error", "--worker-urls",
        ] + engines.map { "http://\($0)" }, listeningOn: ports[0])
    return Proxy(name: sglang, process: process, port: ports[0])
}

/// Those that `perf/peers` installed.
func startPeers(_ engines: [SocketAddress]) throws -> [Proxy] {
    try [startNginx, startEnvoy, startSGLang].compactMap { try $0(engines) }
}
