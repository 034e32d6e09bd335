import ArgumentParser
import Bench
import Core
import Foundation
import Net
import RequestPipeline
import Scan
import Stack

/// Options that say which stack to start.
struct StackOptions: ParsableArguments {
    @Option(help: "Engines in all; with disaggregation half of them compute prompts.")
    var engines: Int?

    @Option(help: "Engines that compute prompts for others.")
    var prefill: Int?

    @Option(help: "Engines that generate.")
    var decode: Int?

    @Flag(name: .customLong("no-disagg"), help: "Every engine computes prompts and generates.")
    var isAggregated = false

    @Option(help: "The model that engines serve.")
    var model = "llmd-sim"

    @Option(
        help: ArgumentHelp(
            "A further argument for every engine; may be given again.", valueName: "argument"))
    var engineArgument: [String] = []

    func validate() throws {
        if isAggregated, prefill != nil || decode != nil {
            throw ValidationError("--no-disagg takes --engines, not --prefill and --decode")
        }
        if engines != nil, prefill != nil || decode != nil {
            throw ValidationError("give --engines, or --prefill and --decode, not both")
        }
        if model.isEmpty {
            throw ValidationError("--model needs a name")
        }
    }

    var layout: StackConfiguration.Engines {
        if isAggregated { return .aggregated(count: engines ?? 4) }
        if let engines {
            return .disaggregated(prefill: engines / 2, decode: engines - engines / 2)
        }
        return .disaggregated(prefill: prefill ?? 2, decode: decode ?? 2)
    }
}

struct UpCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "up",
        abstract: "Starts the whole stack on this machine.",
        discussion: """
            Engines (llmd sim), a sidecar per decode engine and a gateway run as processes of \
            their own and are restarted when they die. On a terminal the state is shown once a \
            second; elsewhere every line is a JSON object. What follows -- are further options of \
            the gateway: llmd up -- --api-keys keys.yaml --access-log access.json
            """)

    @OptionGroup var stack: StackOptions

    @Option(help: "The routing policy: \(RoutingPolicy.names).")
    var policy = RoutingPolicy.precise

    @Option(name: .customLong("config"), help: "An EndpointPickerConfig file; instead of --policy.")
    var configFile: String?

    @Option(help: "The address to listen on.")
    var host = "127.0.0.1"

    @Option(help: "The gateway's port.")
    var port: UInt16 = 8000

    @Option(help: "The port of the gateway's metrics.")
    var metricsPort: UInt16 = 9090

    @Option(name: .customLong("child-port"), help: "The first port of the other processes.")
    var firstChildPort: UInt16 = 18000

    @Argument(
        parsing: .postTerminator,
        help: ArgumentHelp("Further options of llmd gateway.", valueName: "gateway-options"))
    var gatewayArguments: [String] = []

    func run() async throws {
        let plan = try StackPlan(
            StackConfiguration(
                engines: stack.layout, policy: policy.rawValue, configFile: configFile,
                model: stack.model, host: host, port: port, metricsPort: metricsPort,
                firstChildPort: firstChildPort, engineArguments: stack.engineArgument,
                gatewayArguments: gatewayArguments))
        try checkGateway(of: plan)
        let loop = try EventLoop.start(name: "up")
        let output = StackOutput(plan: plan, model: stack.model)
        let supervisor = StackSupervisor(plan: plan, executable: try ownPath(), on: loop) {
            output.show($0)
        }
        let signal = try await StopSignal(on: loop)
        let stopping = Task {
            await signal.wait()
            output.showStopping()
            await supervisor.stop()
        }
        if let pids = try await supervisor.start() {
            output.showReady(pids)
            Task {
                while let metrics = await supervisor.metrics() {
                    output.show(metrics)
                    try? await Task.sleep(for: .seconds(1))
                }
            }
        }
        await stopping.value
    }

    /// Says what is wrong with the gateway's options before anything starts.
    private func checkGateway(of plan: StackPlan) throws {
        for child in plan.children where child.kind == .gateway {
            let gateway: GatewayCommand
            do {
                gateway = try GatewayCommand.parse(Array(child.arguments.dropFirst()))
            } catch {
                throw ValidationError("llmd gateway: \(GatewayCommand.message(for: error))")
            }
            let addresses = [gateway.port, gateway.metricsPort].map(gateway.service.address)
            guard addresses == [plan.gateway, plan.metrics[0]] else {
                throw ValidationError("--host, --port and --metrics-port stand before the --")
            }
        }
    }
}

/// The path of this binary.
func ownPath() throws -> String {
    try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
}
