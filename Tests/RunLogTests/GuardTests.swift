// Guards: planted spikes are found, clean steps are not, and windows saved and read back decide alike.

import Formats
import Glibc
import RunLog
import Testing

/// A run that looks like training: loss falling with noise, norms that vary by factors.
private struct FakeRun {
    var random: TestRandom

    mutating func step(_ step: Int) -> (loss: Double, gradNorm: Double, updateNorm: Double) {
        let loss = 2 + 6 * exp(-Double(step) / 300) + 0.12 * random.normal()
        let gradNorm = exp(0.35 * random.normal() - 0.5), updateNorm = 0.01 * exp(0.2 * random.normal())
        return (loss, gradNorm, updateNorm)
    }
}

@Suite struct Spikes {
    @Test(arguments: [1, 2]) func plantedSpikesAreFoundAndCleanStepsAreNot(_ seed: UInt64) {
        var run = FakeRun(random: TestRandom(state: seed)), spikes = SpikeGuard(), falseAlarms = 0, found = 0,
            planted = 0
        for step in 1...10_000 {
            var figures = run.step(step)
            let isPlanted = step % 500 == 250
            if isPlanted {
                planted += 1
                switch planted % 3 {
                case 0: figures.loss += 1.5
                case 1: figures.gradNorm *= 30
                default: figures.updateNorm *= 8
                }
            }
            let spike = spikes.observe(
                step: step, loss: figures.loss, gradNorm: figures.gradNorm, updateNorm: figures.updateNorm)
            if isPlanted { found += spike?.step == step ? 1 : 0 } else { falseAlarms += spike == nil ? 0 : 1 }
        }
        #expect(planted == 20 && found >= 19, "\(found) of \(planted) found")
        #expect(falseAlarms <= 1, "\(falseAlarms) false alarms")
    }

    @Test func notANumberNeverEnters() {
        var run = FakeRun(random: TestRandom(state: 5)), clean = SpikeGuard(), disturbed = SpikeGuard()
        for step in 1...300 {
            let figures = run.step(step)
            _ = clean.observe(step: step, loss: figures.loss, gradNorm: figures.gradNorm)
            _ = disturbed.observe(step: step, loss: .nan, gradNorm: .infinity)
            _ = disturbed.observe(step: step, loss: figures.loss, gradNorm: figures.gradNorm)
        }
        #expect(clean == disturbed)
    }

    @Test func savedWindowsReadBackBitForBit() throws {
        var run = FakeRun(random: TestRandom(state: 6)), one = SpikeGuard(window: 64, threshold: 5)
        for step in 1...100 {
            let figures = run.step(step)
            _ = one.observe(step: step, loss: figures.loss, gradNorm: figures.gradNorm, updateNorm: figures.updateNorm)
        }
        let json = try JSONValue.parse(one.json.serialized())
        #expect(SpikeGuard(json: json, window: 64, threshold: 5) == one)
        #expect(SpikeGuard(json: json, window: 128, threshold: 5) == nil)
    }

    @Test func aConstantLossIsNoTrap() {
        var spikes = SpikeGuard()
        for step in 1...200 { #expect(spikes.observe(step: step, loss: 1, gradNorm: 1) == nil) }
        #expect(spikes.observe(step: 201, loss: 1.001, gradNorm: 1) == nil)
        let spike = spikes.observe(step: 202, loss: 2, gradNorm: 1)
        #expect(spike?.message(window: 128).hasPrefix("loss 2.00 at step 202 is 100.0 deviations above") == true)
    }
}

@Suite struct NonFinite {
    @Test func stopIsTheDefaultAndNamesThePlace() {
        var judge = NonFiniteGuard(policy: .stop)
        #expect(judge.judge(step: 1, isFinite: true) == .proceed)
        guard case .stop(let message) = judge.judge(step: 412, isFinite: false, place: "layers.3.mlp.down_proj") else {
            Issue.record("not stopped")
            return
        }
        #expect(message.hasPrefix("gradient not finite at step 412 (layers.3.mlp.down_proj); stopped"))
    }

    @Test func threeInARowAndTenInAThousand() throws {
        var judge = NonFiniteGuard(policy: .skip), decisions: [NonFiniteGuard.Decision] = []
        for step in 1...4 { decisions.append(judge.judge(step: step, isFinite: false)) }
        #expect(decisions[0] == .skip("gradient not finite at step 1; step skipped, 1 of 3 allowed"))
        #expect(decisions[2] == .skip("gradient not finite at step 3; step skipped, 3 of 3 allowed"))
        guard case .stop = decisions[3] else { Issue.record("\(decisions[3])"); return }

        judge = NonFiniteGuard(policy: .skip)
        var stopped: Int?
        for step in 1...2000 where stopped == nil {
            judge = try #require(NonFiniteGuard(json: judge.json, policy: .skip))
            if case .stop = judge.judge(step: step, isFinite: step % 90 != 0) { stopped = step }
        }
        #expect(stopped == 990)
        judge = NonFiniteGuard(policy: .skip)
        for step in 1...5000 {
            if case .stop(let message) = judge.judge(step: step, isFinite: step % 101 != 0) {
                Issue.record("\(message)")
            }
        }
    }
}
