"""The physics of a heat exchanger without losses, in the units of data sheets.

Temperatures are in degrees Celsius, their differences in K, duties in kW, flows in kg/s, specific heats in kJ/kg K,
coefficients in W/m2 K, areas in m2, fouling resistances in m2 K/kW.

Sources: Kays and London, Compact Heat Exchangers (3rd edition, 1984), for effectiveness and NTU; Bowman, Mueller and
Nagle, Mean temperature difference in design (1940), for F; Kern and Seaton, A theoretical analysis of thermal surface
fouling (1959); Thompson and Taylor, Guide for the use of the SI (NIST SP 811, 2008), for the units.
"""

import math


def duty(flow, specific_heat, difference):
    """Return the heat that a stream gives or takes: the energy balance of one side."""
    return flow * specific_heat * difference


def log_mean(first, second):
    """Return the logarithmic mean of the differences at both ends; of equal ones it is their value.

    >>> round(log_mean(60, 30), 2)
    43.28
    """
    if math.isclose(first, second, rel_tol=1e-6):
        return (first + second) / 2
    return (first - second) / math.log(first / second)


def correction(hot_in, hot_out, cold_in, cold_out):
    """Return F of one shell pass and two or more tube passes (Bowman et al., 1940). Raises ValueError where none is.

    >>> round(correction(100, 60, 20, 40), 2)
    0.94
    """
    ratio, gain = (hot_in - hot_out) / (cold_out - cold_in), (cold_out - cold_in) / (hot_in - cold_in)
    root = math.hypot(ratio, 1)
    if math.isclose(ratio, 1, rel_tol=1e-6):
        counter = gain / (1 - gain)                                 # the limit of the next line
    else:
        counter = math.log((1 - gain) / (1 - ratio * gain)) / (ratio - 1)
    left = 2 - gain * (ratio + 1 + root)
    if left <= 0:
        raise ValueError("These temperatures cross too far for one shell pass.")
    return root * counter / math.log((2 - gain * (ratio + 1 - root)) / left)


def area(duty, coefficient, factor, mean_difference):
    """Return A = Q / (U F LMTD)."""
    return 1000 * duty / (coefficient * factor * mean_difference)


def effectiveness(ntu, capacity_ratio):
    """Return the duty of a counter-current exchanger as a share of the largest possible one (Kays and London).

    capacity_ratio: the smaller capacity rate (flow times specific heat) over the larger one

    >>> round(effectiveness(2, 0.5), 3)
    0.775
    """
    if math.isclose(capacity_ratio, 1, rel_tol=1e-6):
        return ntu / (1 + ntu)
    decay = math.exp(-ntu * (1 - capacity_ratio))
    return (1 - decay) / (1 - capacity_ratio * decay)


def fouled(clean, resistance):
    """Return the coefficient with a fouling resistance in series with the clean one."""
    return 1 / (1 / clean + resistance / 1000)


def fouling_after(days, final, time_constant):
    """Return the resistance after some days of operation, which approaches a final one (Kern and Seaton, 1959)."""
    return final * (1 - math.exp(-days / time_constant))


CONVERSIONS = {         # (from, to) -> factor, offset; exact, but for the Btu: 1055.056 J
    ("°C", "K"): (1, 273.15), ("K", "°C"): (1, -273.15), ("°C", "°F"): (1.8, 32), ("°F", "°C"): (1 / 1.8, -32 / 1.8),
    ("kW", "MW"): (0.001, 0), ("kW", "MBtu/h"): (3600 / 1055.056 / 1000, 0), ("bar", "kPa"): (100, 0),
    ("bar", "psi"): (100 / 6.894757, 0), ("psi", "bar"): (0.06894757, 0), ("kg/s", "t/h"): (3.6, 0),
    ("t/h", "kg/s"): (1 / 3.6, 0), ("m2", "ft2"): (1 / 0.09290304, 0), ("ft2", "m2"): (0.09290304, 0),
    ("W/m2K", "Btu/hft2F"): (1 / 5.678263, 0),
}


def convert(value, unit, wanted):
    """Return a value in another unit, by CONVERSIONS."""
    factor, offset = CONVERSIONS[unit, wanted]
    return factor * value + offset
