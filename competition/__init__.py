"""A toolkit for image-classification competitions: images to folds to OOF predictions to a blend to a proven zip.

The packages lie along the data's way. Each imports those above it in this list, and none below:

    base         files, folders on disk, arrays, text, metrics, statistics, the start of Keras
    models       backbones, their weights, backbone and head as one network
    rehearsal    a zip run by a fresh, isolated Python, as a scorer runs it
    data         images and labels as the user has them, the fold table, groups of near-duplicates
    features     TTA views, augmentation, what frozen backbones make of images, heads on that
    recipes      how to train: the keys of a recipe, the recipes that come along, what fits a fold table
    runs         what training leaves: records, OOF predictions, the kinds of run, prediction with fold models
    blending     weights, views and temperature chosen on the OOF, and the forecast of the hidden score
    training     folds through both phases, double models, soups, teachers, GANs
    submission   a blend as one network in one zip, its limits, its record, the log of scores
    insight      what lies in the data and what a model sees: look, sanity, audit, shift, explain
    formats      a module a format that competitions ask for
    checking     what is wrong with any zip, whoever made it
    trials       whole programmes of runs: rank, tune, study, simulate, demo, matrix
    cli          the table of commands, and the command line made of it
"""

__version__ = "0.1.0"
